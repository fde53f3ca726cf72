"""A slow query to be tuned: a table of the API's that grew, and statements that read it end to end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from opslib.database.postgres import NAME
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

ROWS = 300_000
INDEX = "visits_tenant_id_at_idx"
BROKEN = "visits_kind_key"
SLOW = "SELECT * FROM visits WHERE tenant_id = %s ORDER BY at DESC LIMIT %s"


@contextmanager
def seeded(rows: int = ROWS) -> Iterator[psycopg.Connection]:
    """A table `visits` that the API's role owns, and the role's connection; gone afterwards."""
    with postgres.connect_admin(Credentials.load()) as admin, postgres.connect(Credentials.load()) as connection:
        admin.execute("SELECT pg_stat_statements_reset()")
        connection.execute("DROP TABLE IF EXISTS visits")
        connection.execute(
            "CREATE TABLE visits (id bigserial PRIMARY KEY, tenant_id int NOT NULL, kind text NOT NULL,"
            ' email varchar(80), "Odd name" text, at timestamptz NOT NULL, note text)'
        )
        connection.execute(
            "INSERT INTO visits (tenant_id, kind, email, at, note) SELECT (random() * 50000)::int,"
            " (ARRAY['web', 'app', 'mail'])[1 + i %% 3], 'person' || i || '@visitors.example',"
            " now() - i * interval '1 second', repeat('x', 60) FROM generate_series(1, %s) AS i",
            [rows],
        )
        connection.execute("ANALYZE visits")
        try:
            yield connection
        finally:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", [NAME]
            )
            connection.execute("DROP TABLE visits")


@contextmanager
def forgotten() -> Iterator[None]:
    """No table, and nothing counted of what was done before."""
    with postgres.connect_admin(Credentials.load()) as admin:
        admin.execute("SELECT pg_stat_statements_reset(), pg_stat_reset()")
    yield


@contextmanager
def slow() -> Iterator[None]:
    """The table, and a statement that PostgreSQL has counted, for which an index is proposed."""
    with seeded() as connection:
        ask(connection)
        yield


@contextmanager
def broken() -> Iterator[None]:
    """The table, with an index whose build has failed."""
    with seeded(20_000) as connection:
        with suppress(psycopg.errors.UniqueViolation):
            connection.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {BROKEN} ON visits (kind)")
        yield


def ask(connection: psycopg.Connection, statement: str = SLOW, values: tuple[object, ...] = (77, 10)) -> None:
    """Run it a few times, as the API would."""
    for _ in range(3):
        psycopg.ClientCursor(connection).execute(statement, values)


def said(made: dict[str, Any], title: str) -> str:
    """The evidence of the last step whose title begins so."""
    outputs = [out for cell in made["cells"] for out in cell.get("outputs", [])]
    steps = [step for out in outputs if (step := out.get("metadata", {}).get("opslib"))]
    return json.dumps([s.get("evidence", []) for s in steps if s["title"].startswith(title)][-1], ensure_ascii=False)
