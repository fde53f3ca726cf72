"""The contract: what a notebook may import."""

import types

import opslib
from opslib.runbook import errors


def test_all_is_sorted_and_equal_to_the_public_names() -> None:
    public = [
        n for n, value in vars(opslib).items() if not n.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    assert sorted(opslib.__all__) == opslib.__all__ == sorted(public)


def test_every_outcome_has_an_exit_code() -> None:
    assert {outcome.value: outcome.exit_code for outcome in errors.Outcome} == {
        "planned": 0,
        "applied": 0,
        "failed": 1,
        "undone": 2,
        "needs-person": 3,
        "refused": 4,
        "interrupted": 143,
    }


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(issubclass(one, errors.RunbookError) for one in raised)
    assert errors.__doc__
    assert [one.__name__ for one in raised if one.__name__ not in errors.__doc__] == []
