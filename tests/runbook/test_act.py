"""Acts: what is shown is made from what runs."""

import shlex
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from opslib.runbook.act import Later, act, call, program, sql
from opslib.runbook.errors import CommandFailed
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials


def test_lines_of_its_own_and_what_they_say_is_done() -> None:
    done: list[str] = []
    one = act("first", "then", run=lambda: done.append("both"))
    one.run()
    assert (one.shown, done) == ("first\nthen", ["both"])


def test_a_call_is_shown_as_it_is_made_and_a_later_argument_by_its_name() -> None:
    made: list[tuple[tuple[object, ...], dict[str, object]]] = []
    secret = Later("the new key", lambda: "sk_1")
    one = call("keys.update", lambda *given, **named: made.append((given, named)), "AK", status="Active", key=secret)
    assert one.shown == "keys.update('AK', status='Active', key=‹the new key›)"
    one.run()
    assert made == [(("AK",), {"status": "Active", "key": "sk_1"})]


def test_a_command_is_shown_as_it_is_typed_and_must_end_well(tmp_path: Path) -> None:
    file = tmp_path / "it's here"
    one = program(["touch", str(file)], {"PATH": "/usr/bin:/bin"})
    assert shlex.split(one.shown) == ["touch", str(file)]
    one.run()
    assert file.exists()
    with pytest.raises(CommandFailed, match="`false` ended with exit code 1"):
        program(["false"], {"PATH": "/usr/bin:/bin"}).run()


@pytest.mark.usefixtures("sandbox")
def test_the_statement_that_is_shown_is_the_one_that_runs() -> None:
    connect = partial(postgres.connect_admin, Credentials.load())
    name = 'odd "name"; DROP TABLE payments'
    made = sql(
        connect, "CREATE TABLE {name} AS SELECT {value} AS said", name=name, value=Later("what it says", lambda: "it's")
    )
    assert made.shown == """CREATE TABLE "odd ""name""; DROP TABLE payments" AS SELECT ‹what it says› AS said"""
    made.run()
    try:
        with connect() as connection:
            said = connection.execute(SQL("SELECT said FROM {}").format(Identifier(name))).fetchall()
        assert said == [("it's",)]
    finally:
        sql(connect, "DROP TABLE {name}", name=name).run()
    with pytest.raises(psycopg.errors.UndefinedTable):
        sql(connect, "DROP TABLE {name}", name=name).run()
