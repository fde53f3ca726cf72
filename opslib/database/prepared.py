"""A prepared statement: one whose parameters have lost their values, ready to be planned or tried."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from psycopg import sql

from opslib.database.postgres import NAME, Connection

_TYPES = "SELECT parameter_types::text[] AS types FROM pg_prepared_statements WHERE name = %s"


@contextmanager
def prepared(connection: Connection, query: str, schema: str) -> Iterator[tuple[sql.Identifier, list[str]]]:
    """Prepare a normalised statement; give its name and its parameters' types.

    All within a transaction that may not write and is rolled back. Raise psycopg.Error for what cannot be prepared.
    """
    name = f"{NAME}_{uuid4().hex}"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
            # Binary, for the extended protocol: it takes one statement and no more.
            connection.execute(sql.SQL("PREPARE {} AS {}").format(sql.Identifier(name), sql.SQL(query)), binary=True)
            row = connection.execute(_TYPES, [name]).fetchone()
            yield sql.Identifier(name), row["types"] if row else []
    finally:
        if not connection.closed and connection.execute(_TYPES, [name]).fetchone():
            connection.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))
