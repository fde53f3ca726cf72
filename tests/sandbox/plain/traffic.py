"""Requests to the plain API at a fixed rate, and how many of them failed: what needs no token and has no rate limit."""

import asyncio
import json
import sys
from dataclasses import asdict

from ..layout import PYTHON, url
from ..sender import Sender
from ..traffic import Traffic
from .layout import API

# No worker names itself, and /health/detailed is answered from memory but for once in thirty seconds.
KINDS = (*8 * ("health",), "detailed", "canary")


class PlainTraffic(Traffic):
    """Load on the plain API while the block runs, or for `seconds`; `result` is there once it has ended."""

    def __init__(self, *, rate: int = 200, seconds: float = 300) -> None:
        super().__init__(rate=rate, seconds=seconds)

    @property
    def _command(self) -> tuple[str, ...]:
        return (PYTHON, "-m", __name__, str(self.rate), str(self.seconds))


class Visitor(Sender):
    """Somebody whom the API does not know: asks how it is, and nothing else."""

    address = url(API)

    async def _log_in(self) -> None:
        """Send as nobody."""

    async def _health(self) -> None:
        await self._ask("GET", "/health")

    async def _detailed(self) -> None:
        await self._ask("GET", "/health/detailed")

    async def _canary(self) -> None:
        await self._ask("GET", "/health/canary")

    async def _arrivals(self) -> None:
        """Expect nothing in the database."""


if __name__ == "__main__":
    visitor = Visitor(int(sys.argv[1]), float(sys.argv[2]), KINDS)
    print(json.dumps(asdict(asyncio.run(visitor.run()))), flush=True)
