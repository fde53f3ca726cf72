"""Sessions of a database: who is logged in to it, and which of them are the API's workers on this machine."""

from collections.abc import Sequence
from typing import Any

from opslib.api.pm2 import Worker
from opslib.database import admin, client_process, session
from opslib.database.postgres import NAME, Connection
from opslib.database.session import Session
from opslib.deployment.environment import Deployment


def others(environment: Deployment, database: str, workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Give who uses a database and is neither one of these workers nor this project: sessions, prepared transactions.

    Subscriptions and logical replication slots of it are among them: they stay with the database that is renamed.
    """
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        sessions = [one for one in _of(connection, database) if one.application != NAME]
        rest = connection.execute(
            "SELECT owner AS role, 'prepared transaction ' || gid AS application"
            " FROM pg_prepared_xacts WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'replication slot ' || slot_name FROM pg_replication_slots"
            " WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'subscription ' || subname FROM pg_subscription s"
            " JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %(database)s",
            {"database": database},
        ).fetchall()
    own = [one for _, one in client_process.by_worker(workers, sessions)]
    return [one.row() for one in sessions if one not in own] + rest


def present(environment: Deployment, database: str, workers: Sequence[Worker]) -> tuple[bool, list[dict[str, str]]]:
    """Whether each of these workers is logged in to a database; with those that are."""
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        found = {id for id, _ in client_process.by_worker(workers, _of(connection, database))}
    return found == {one.id for one in workers}, [{"worker": str(one), "logged in to": database} for one in found]


def _of(connection: Connection, database: str) -> list[Session]:
    return [
        one
        for one in session.read(connection)
        if one.database == database and one.kind in ("client backend", "walsender")
    ]
