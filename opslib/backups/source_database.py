"""The source database of a backup: the API's, who reads it, with which tools, and one snapshot of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from opslib.backups import manifest
from opslib.database import admin, pg_tool, postgres
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer


@dataclass(frozen=True)
class Moment:
    """What several sessions see as one: its id for pg_dump, when it was taken, and the transaction that keeps it."""

    id: str
    taken: datetime
    connection: Connection


def same_server(environment: Deployment, superuser: Connection) -> Answer:
    """Whether the administrator is logged in to the database that the API uses."""
    with postgres.connect(admin.api_url(environment)) as connection:
        found = {"the API's": postgres.server(connection), "the administrator's": postgres.server(superuser)}
    return Answer(len({*found.values()}) == 1, found, "Correct `database.admin`.")


def allowed(superuser: Connection) -> Answer:
    """Whether the administrator may do what a backup and its proof need."""
    may = superuser.execute(
        "SELECT rolname AS role, rolsuper OR rolcreatedb AS creates, pg_has_role('pg_read_all_data', 'USAGE') AS reads"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert may is not None
    return Answer(may["creates"] and may["reads"], may, "Grant it CREATEDB and pg_read_all_data.")


def tools(environment: Deployment, superuser: Connection) -> Answer:
    """Whether the tools are not older than the server: pg_dump refuses a newer one."""
    names = ("pg_dump", "pg_restore")
    majors = {"server": admin.major(superuser)} | {name: pg_tool.major(environment, name) for name in names}
    advice = "Install the client programs of the server's version, and name their folder as `tools`."
    return Answer(min(majors.values()) == majors["server"], majors, advice)


@contextmanager
def snapshot(environment: Deployment, lock_wait: int) -> Iterator[Moment]:
    """Keep a snapshot of the database open; it ends with the connection, however this process ends.

    A table that somebody has locked is waited for so many seconds.
    """
    with admin.connect(environment) as connection:
        connection.execute(f"SET lock_timeout = '{lock_wait}s'".encode())
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot() AS id, clock_timestamp() AS taken").fetchone()
        assert row is not None
        manifest.hold(connection)
        yield Moment(row["id"], row["taken"], connection)


def api_role(environment: Deployment) -> str:
    """Give the role that the API works as, which need not be the one that it logs in as."""
    with postgres.connect(admin.api_url(environment), within=10) as connection:
        row = connection.execute("SELECT current_user::text AS name").fetchone()
        assert row is not None
        return str(row["name"])
