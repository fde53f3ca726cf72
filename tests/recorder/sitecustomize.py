"""Records in a kernel what each change runs: Python imports this at its start where PYTHONPATH names this folder.

Each change leaves a line of JSON in the file that ACTS_FILE names: its title, what its plan showed, what ran.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKS = re.compile(
    r"(SELECT|SHOW|SET|EXPLAIN|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|LOCK|DECLARE|FETCH|CLOSE)\b"
    r"(?!.*pg_(terminate|cancel)_backend)|WITH\b(?!.*\b(INSERT|UPDATE|DELETE)\b)",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that begins otherwise acts, and so does one that ends a session."""
READS = re.compile(r"(Get|List|Head|Describe|Simulate)")
LOOKS = re.compile(r"pm2 -s jlist|.* --version|prisma migrate (status|diff)|pg_restore (-l|--list)|git |lsof|ss ")

_ran: list[str] | None = None
"""What the change that is under way has run; None between changes."""


def _note(text: str) -> None:
    if _ran is not None:
        _ran.append(" ".join(text.split()))


def _before(owner: Any, name: str, look: Callable[..., None]) -> None:
    """Have `look` see the arguments of each call of a method."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def seen(*given: Any, **named: Any) -> Any:
        look(*given, **named)
        return method(*given, **named)

    setattr(owner, name, seen)


def _change(module: Any) -> None:
    do = module.Change.do

    def recorded(self: Any) -> None:
        global _ran
        _ran = []
        try:
            do(self)
        finally:
            said = {"change": self.title, "shown": [act.shown for act in self.acts], "ran": _ran}
            _ran = None
            with Path(os.environ["ACTS_FILE"]).open("a") as file:
                file.write(json.dumps(said) + "\n")

    module.Change.do = recorded


def _psycopg(module: Any) -> None:
    def statement(cursor: Any, query: Any, *given: Any, **named: Any) -> None:
        text = query.as_string(cursor) if hasattr(query, "as_string") else query
        text = text.decode() if isinstance(text, bytes) else str(text)
        if text.strip() and not ASKS.match(text.lstrip()):
            _note(text)

    _before(module.Cursor, "execute", statement)


def _subprocess(module: Any) -> None:
    def started(_: Any, command: Any, *given: Any, **named: Any) -> None:
        words = [command] if isinstance(command, str) else list(map(str, command))
        text = shlex.join([Path(words[0]).name, *words[1:]])
        if not LOOKS.match(text):
            _note(text)

    _before(module.Popen, "__init__", started)


def _botocore(module: Any) -> None:
    def called(client: Any, operation: str, parameters: dict[str, Any]) -> None:
        if not READS.match(operation):
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
            address = f"/{parameters['Bucket']}/{parameters['Key']}" if "Key" in parameters else ""
            _note(f"aws {client.meta.service_model.service_name}.{name} {address}")

    _before(module.BaseClient, "_make_api_call", called)


def _urllib3(module: Any) -> None:
    def asked(_: Any, method: str, url: str, *given: Any, **named: Any) -> None:
        if method not in ("GET", "HEAD"):
            _note(f"http {method} {re.sub(r'^https?://[^/]+', '', url).partition('?')[0]}")

    _before(module.HTTPConnectionPool, "urlopen", asked)


def _stripe(module: Any) -> None:
    def asked(_: Any, method: str, url: str, *given: Any, **named: Any) -> None:
        if method.upper() != "GET":
            _note(f"http {method.upper()} {re.sub(r'^https?://[^/]+', '', url).partition('?')[0]}")

    _before(module.HTTPClient, "request_with_retries", asked)


WATCHED = {
    "opslib.runbook.change": _change,
    "psycopg": _psycopg,
    "botocore.client": _botocore,
    "urllib3.connectionpool": _urllib3,
    "stripe._http_client": _stripe,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Sees to each watched module once it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            watch, load = WATCHED[name], spec.loader.exec_module

            def loaded(module: Any) -> None:
                load(module)
                watch(module)

            spec.loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


if "ACTS_FILE" in os.environ:
    import subprocess

    _subprocess(subprocess)
    sys.meta_path.insert(0, _Finder())
