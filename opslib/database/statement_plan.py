"""The plan of a statement whose parameters have lost their values: prepared, never written with, and rolled back.

EXPLAIN has an option for such statements (GENERIC_PLAN) from version 16 on; EXPLAIN EXECUTE with plan_cache_mode gives
the same from 12 on.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from opslib.database.postgres import NAME, Connection

_TYPES = "SELECT parameter_types::text[] AS types FROM pg_prepared_statements WHERE name = %s"


@contextmanager
def prepared(connection: Connection, query: str, schema: str) -> Iterator[tuple[sql.Identifier, list[str]]]:
    """Prepare a normalised statement; give its name and its parameters' types.

    All within a transaction that may not write and is rolled back. Raise psycopg.Error for what cannot be prepared.
    """
    name = f"{NAME}_{uuid4().hex}"
    # The outer one, because a rollback leaves what is prepared, and a pooler may lend another session after it.
    with connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION READ ONLY")
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
                # Binary, for the extended protocol: it takes one statement and no more.
                prepare = sql.SQL("PREPARE {} AS {}").format(sql.Identifier(name), sql.SQL(query))
                connection.execute(prepare, binary=True)
                row = connection.execute(_TYPES, [name]).fetchone()
                yield sql.Identifier(name), row["types"] if row else []
        finally:
            if not connection.closed and connection.execute(_TYPES, [name]).fetchone():
                connection.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))


def plan(connection: Connection, query: str, schema: str) -> dict[str, Any] | None:
    """Give the plan of a normalised statement; None for what has none, or cannot be planned as it stands."""
    if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\b", query, re.IGNORECASE):
        return None
    try:
        with prepared(connection, query, schema) as (name, types):
            connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            execute = sql.SQL("EXECUTE {} ({})" if types else "EXECUTE {}").format(
                name, sql.SQL(", ").join([sql.SQL("NULL")] * len(types))
            )
            row = connection.execute(sql.SQL("EXPLAIN (FORMAT JSON, VERBOSE) {}").format(execute)).fetchone()
    except psycopg.Error:
        return None
    assert row is not None
    tree: dict[str, Any] = row["QUERY PLAN"][0]["Plan"]
    return tree


def nodes(
    node: dict[str, Any], above: tuple[dict[str, Any], ...] = ()
) -> Iterator[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
    """Give each node of a plan, with those above it, the nearest first."""
    yield node, above
    for child in node.get("Plans", ()):
        yield from nodes(child, (node, *above))
