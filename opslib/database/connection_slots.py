"""Connection slots: how many sessions PostgreSQL lets in, for whom the last ones are kept, and how many are taken."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import LiteralString

from opslib.database import admin, postgres
from opslib.database.postgres import Connection
from opslib.database.sessions import Session, read
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

CROWDED = 0.8
"""Share of the slots above which it is time to look: the alert of postgres_exporter's mixin."""

_LIMITS: LiteralString = """
SELECT current_setting('max_connections')::int AS most, current_setting('superuser_reserved_connections')::int
  + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
  (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database"""


@dataclass(frozen=True)
class Limit:
    """A limit on sessions: whose it is, how many it allows, how many there are."""

    of: str
    slots: int
    taken: int

    @property
    def crowded(self) -> bool:
        """Whether more than CROWDED of the slots are taken."""
        return self.taken > CROWDED * self.slots

    @property
    def excess(self) -> int:
        """How many sessions too many there are for it not to be crowded."""
        return max(0, self.taken - int(CROWDED * self.slots))

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        share = self.taken / max(1, self.slots)
        return {
            "limit": self.of,
            "taken": str(self.taken),
            "of": str(self.slots),
            "share": f"{'█' * round(20 * share):░<20} {share:.0%}",
        }


def limits(connection: Connection, sessions: Sequence[Session], roles: Collection[str]) -> list[Limit]:
    """Give every limit that a new session of these roles could run into: the server's, the database's, the role's."""
    found = connection.execute(_LIMITS).fetchone()
    assert found is not None
    ours = [one for one in sessions if one.kind == "client backend"]
    here = [one for one in ours if one.database == connection.info.dbname]
    all_taken = len(ours) + 1  # this connection is a session too
    limits = [Limit("the server, for ordinary roles", found["most"] - found["reserved"], all_taken)]
    if found["database"] >= 0:
        limits.append(Limit(f"database {connection.info.dbname}", found["database"], len(here) + 1))
    rows = connection.execute(
        "SELECT rolname AS name, rolconnlimit AS most FROM pg_roles WHERE rolname = ANY(%s) AND rolconnlimit >= 0"
        " ORDER BY rolname",
        [list(roles)],
    )
    limits += [Limit(f"role {r['name']}", r["most"], sum(one.role == r["name"] for one in ours)) for r in rows]
    return limits


def stay_free(environment: Deployment, roles: Collection[str], *, seconds: float = 3) -> Answer:
    """Whether slots are free and the API's login works, each time that it is asked for some seconds; with the limits.

    A pool that leaks takes what was freed within a moment.
    """
    url, ends = admin.api_url(environment), time.monotonic() + seconds
    otherwise = "The client comes back: look who has the sessions, and end it with -p stop_client NAME"
    with admin.connect(environment) as connection:
        while True:
            found = limits(connection, read(connection), roles)
            free = not any(limit.taken >= limit.slots for limit in found) and postgres.failure(url) is None
            if not free or time.monotonic() > ends:
                return Answer(free, [limit.row() for limit in found], otherwise)
            time.sleep(0.3)
