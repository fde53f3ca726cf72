"""Drills of `tune_queries`: a seeded slow query and useless indexes named with what mends them, and no extension."""

import json
from typing import Any

import psycopg
import pytest

from opslib.database import admin, index, index_proposal, statement
from tests import sandbox
from tests.drills import backups, slow_query, standing
from tests.drills.slow_query import INDEX, said, seeded
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

pytestmark = pytest.mark.usefixtures("sandbox")


def run() -> tuple[int, dict[str, Any], str]:
    """Run it, counting for a second; give its exit code, its record, and what the terminal showed."""
    return backups.run("-p", "seconds", "1", name="tune_queries", apply=False)


def test_a_slow_statement_is_named_with_the_index_that_mends_it() -> None:
    with seeded() as connection:
        slow_query.ask(connection)
        slow_query.ask(connection, "SELECT id FROM visits WHERE email = 'person7@visitors.example'", ())
        code, made, shown = run()
    assert (code, made["metadata"]["opslib"]["outcome"]) == (5, "planned")
    assert "SELECT * FROM visits" in said(made, "Statements since")
    assert INDEX in said(made, "Indexes that would help")
    assert "visits" in said(made, "Big tables")
    assert f"runbook run build_index -e sandbox -p name {INDEX}" in shown
    assert "person7" not in json.dumps(made)


@pytest.mark.parametrize(
    ("where", "columns"), [('1=1 AND "public"."visits"."tenant_id" = $3', ("tenant_id", "at")), ("1=1", ("at",))]
)
def test_a_condition_on_no_table_hides_nothing(where: str, columns: tuple[str, ...]) -> None:
    asked = (
        f'SELECT "public"."visits"."id" FROM "public"."visits" WHERE ({where})'
        ' ORDER BY "public"."visits"."at" DESC LIMIT $1 OFFSET $2'
    )
    with seeded() as connection, admin.connect(standing.sandbox()) as connected:
        psycopg.RawCursor(connection).execute(asked, (10, 0, 77)[: 2 + asked.count("$3")])
        counted = statement.snapshot(connected).statements.values()
        found = index_proposal.proposals(connected, statement.ranked(counted), index.read(connected), schema="public")
        assert [one.columns for one in found if one.table == "visits"] == [columns]
        connection.execute(found[0].create)
        assert index_proposal.uses(connected, found[0], "public")


def test_an_invalid_index_is_a_finding_and_dropped() -> None:
    with slow_query.broken():
        code, _, shown = run()
        assert code == 5
        assert f"runbook run drop_invalid_index -e sandbox -p name {slow_query.BROKEN}" in shown
        assert backups.run("-p", "name", slow_query.BROKEN, name="drop_invalid_index")[0] == 0
        code, _, shown = run()
        assert "drop_invalid_index" not in shown


def test_useless_indexes_are_listed_with_the_statement_that_drops_them() -> None:
    with seeded(200_000) as connection:
        connection.execute('CREATE INDEX "Odd; name" ON visits (kind, id)')
        connection.execute("CREATE INDEX twin_a ON visits (tenant_id, at)")
        connection.execute("CREATE INDEX twin_b ON visits (tenant_id, at)")
        connection.execute("CREATE INDEX prefix ON visits (tenant_id)")
        connection.execute("CREATE INDEX other_order ON visits (tenant_id DESC)")
        connection.execute("CREATE INDEX partial ON visits (tenant_id) WHERE kind = 'web'")
        connection.execute("CREATE UNIQUE INDEX needed ON visits (at, id)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON visits (kind)")
        with admin.connect(standing.sandbox()) as connected:
            found = {one.index: one for one in index.useless(connected, index.read(connected)) if one.table == "visits"}
    assert found["broken"].why.startswith("invalid")
    assert found["twin_b"].why == "covered by twin_a"
    assert found["prefix"].why in ("covered by twin_a", "covered by twin_b")
    assert found["Odd; name"].drop == 'DROP INDEX CONCURRENTLY IF EXISTS "public"."Odd; name";'
    assert found["other_order"].why.startswith("used 0 times")
    assert found["twin_a"].why.startswith("used 0 times")
    assert not {"needed", "visits_pkey"} & found.keys()


def test_without_the_extension_it_says_what_is_missing_and_goes_on() -> None:
    with postgres.connect_admin(Credentials.load()) as superuser:
        superuser.execute("DROP EXTENSION pg_stat_statements")
        try:
            code, made, _ = run()
            assert (code, made["metadata"]["opslib"]["outcome"]) == (5, "planned")
            assert "CREATE EXTENSION pg_stat_statements" in said(made, "What is missing")
            assert "none was counted" in said(made, "Statements of the last")
        finally:
            superuser.execute("CREATE EXTENSION pg_stat_statements")


@pytest.mark.long
def test_without_the_library_it_says_that_a_restart_is_needed() -> None:
    settings = postgres.HOME.resolve() / "data/postgresql.conf"
    before = settings.read_text()
    settings.write_text(f"{before}shared_preload_libraries = ''\n")
    try:
        _restart()
        code, made, _ = run()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (5, "planned")
        assert "then restart PostgreSQL" in said(made, "What is missing")
    finally:
        settings.write_text(before)
        _restart()
    with admin.connect(standing.sandbox()) as connection:
        assert statement.missing(connection) == []


def _restart() -> None:
    sandbox.break_("db-down")
    sandbox.mend("db-down")
