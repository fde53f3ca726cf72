"""Sessions of a database: who is logged in to it, and which of them are the API's workers on this machine."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from opslib import client, cluster
from opslib.environment import Environment
from opslib.pm2 import Worker
from opslib.postgres import NAME


def others(environment: Environment, database: str, workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Give who uses a database and is neither one of these workers nor this project: sessions, prepared transactions.

    Subscriptions and logical replication slots of it are among them: they stay with the database that is renamed.
    """
    own = client.of_workers(workers)
    with cluster.connect(environment, cluster.MAINTENANCE) as connection:
        sessions = connection.execute(
            "SELECT usename AS role, application_name AS application, client_addr::text AS address,"
            " client_port AS port, backend_start AS since FROM pg_stat_activity WHERE datname = %s"
            " AND application_name <> %s AND backend_type IN ('client backend', 'walsender') ORDER BY backend_start",
            [database, NAME],
        ).fetchall()
        rest = connection.execute(
            "SELECT owner AS role, 'prepared transaction ' || gid AS application, prepared AS since"
            " FROM pg_prepared_xacts WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'replication slot ' || slot_name, NULL FROM pg_replication_slots"
            " WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'subscription ' || subname, NULL FROM pg_subscription s"
            " JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %(database)s",
            {"database": database},
        ).fetchall()
    return [_row(one) for one in sessions if _end(one) not in own] + [_row(one) for one in rest]


def present(environment: Environment, database: str, workers: Sequence[Worker]) -> tuple[bool, list[dict[str, str]]]:
    """Whether each of these workers is logged in to a database; with those that are."""
    own = client.of_workers(workers)
    with cluster.connect(environment, cluster.MAINTENANCE) as connection:
        rows = connection.execute(
            "SELECT client_addr::text AS address, client_port AS port FROM pg_stat_activity WHERE datname = %s",
            [database],
        ).fetchall()
    found = {own[_end(row)] for row in rows if _end(row) in own}
    return found == {one.id for one in workers}, [{"worker": str(one), "logged in to": database} for one in found]


def _row(one: DictRow) -> dict[str, Any]:
    since: datetime | None = one["since"]
    address = (one.get("address") or "").split("/")[0]
    shown = {"role": one["role"], "application": one["application"], "address": address}
    return {**shown, "since": f"{since:%Y-%m-%dT%H:%M:%SZ}" if since else ""}


def _end(session: DictRow) -> tuple[str, int]:
    return (session["address"] or "").split("/")[0], session["port"] or -1
