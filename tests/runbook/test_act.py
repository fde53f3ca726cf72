"""Acts: what is shown is made from what runs."""

from functools import partial

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from opslib.runbook.act import act, sql
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials


def test_lines_of_its_own_and_what_they_say_is_done() -> None:
    done: list[str] = []
    one = act("first", "then", run=lambda: done.append("both"))
    one.run()
    assert (one.shown, done) == ("first\nthen", ["both"])


@pytest.mark.usefixtures("sandbox")
def test_the_statement_that_is_shown_is_the_one_that_runs() -> None:
    connect = partial(postgres.connect_admin, Credentials.load())
    name = 'odd "name"; DROP TABLE payments'
    made = sql(connect, "CREATE TABLE {name} AS SELECT {value} AS said", name=name, value=Literal("it's"))
    assert made.shown == """CREATE TABLE "odd ""name""; DROP TABLE payments" AS SELECT 'it''s' AS said"""
    made.run()
    try:
        with connect() as connection:
            said = connection.execute(SQL("SELECT said FROM {}").format(Identifier(name))).fetchall()
        assert said == [("it's",)]
    finally:
        sql(connect, "DROP TABLE {name}", name=name).run()
    with pytest.raises(psycopg.errors.UndefinedTable):
        sql(connect, "DROP TABLE {name}", name=name).run()
