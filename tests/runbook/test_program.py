"""Outside programs: run to their end, and what went wrong told apart."""

import os

import pytest

from opslib.runbook import program
from opslib.runbook.errors import CommandFailed, TimedOut

PLAIN = {"PATH": os.environ["PATH"]}


def test_output_is_given_and_input_read() -> None:
    assert program.run(["cat"], env=PLAIN, given=b"said") == "said"


def test_one_that_fails_tells_its_code_and_its_last_words() -> None:
    with pytest.raises(CommandFailed, match="exit code 3: last words") as failed:
        program.run(["sh", "-c", "echo last words; exit 3"], env=PLAIN)
    assert (failed.value.exit_code, isinstance(failed.value, TimedOut)) == (3, False)


def test_one_that_does_not_end_is_stopped_and_told_from_one_that_failed() -> None:
    with pytest.raises(TimedOut, match=r"`sleep 60` had not ended after 0\.2 s"):
        program.run(["sleep", "60"], env=PLAIN, seconds=0.2)


def test_one_that_is_missing_says_where_it_was_looked_for() -> None:
    with pytest.raises(CommandFailed, match="nowhere is not installed"):
        program.run(["nowhere"], env=PLAIN)
