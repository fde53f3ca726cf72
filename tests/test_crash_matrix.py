"""A sample of the crash matrix, which `make crash-matrix` tries whole; and how it counts."""

from collections.abc import Iterator

import pytest

from tests.crash_matrix import FAILED, Case, Kill, all_well, sample, shard, summary, survive
from tests.crash_subjects import SUBJECTS
from tests.drills import access_key, database, jwt_secret, stripe_agreement

BY_NAME = {str(subject): subject for subject in SUBJECTS}
JWT, LOGIN = BY_NAME["revoke_jwt_secret"], BY_NAME["change_database_password"]
STRIPE, S3 = BY_NAME["rotate_stripe_key wait_seconds=6"], BY_NAME["rotate_s3_credentials"]
SAMPLE = [
    # One worker signs with the new secret, the other one is being replaced.
    Case(JWT, [Kill("runner", "Sign with the new secret only", 4.5)]),
    # The old password is dead, and the .env has the new one.
    Case(LOGIN, [Kill("kernel", "Let the workers log in anew", 1.0)]),
    Case(STRIPE, [Kill("kernel", "Give the workers the new STRIPE_SECRET_KEY", 4.5)]),
    Case(S3, [Kill("runner", 2), Kill("runner", "Create the second access key", 0.01)]),
]


@pytest.fixture(scope="module")
def idle(sandbox: None) -> Iterator[None]:
    """Other tests compare the plan of rotations that have not begun."""
    yield
    jwt_secret.first()
    database.first()
    stripe_agreement.first()
    access_key.one()


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("case", SAMPLE, ids=[case.subject.procedure for case in SAMPLE])
def test_killed_in_the_middle_it_is_run_again(case: Case) -> None:
    result = survive(case)
    assert (result.ended, result.problems) == ("applied", [])


def test_sample_is_spread_over_all_cases() -> None:
    all_cases = [Case(JWT, [Kill("runner", number)]) for number in range(100)]
    assert [case.kills[0].shown for case in sample(all_cases, 4)] == [12, 37, 62, 87]
    assert sample(all_cases, 200) == sample(all_cases, None) == all_cases


def test_shards_together_have_every_case_once() -> None:
    all_cases = [Case(JWT, [Kill("runner", number)]) for number in range(10)]
    for turn in range(4):
        shards = [shard(all_cases, which, turn) for which in ("1/3", "2/3", "3/3")]
        assert sorted(len(part) for part in shards) == [3, 3, 4]
        assert sorted((case for part in shards for case in part), key=all_cases.index) == all_cases
    assert [len(shard(all_cases[:1], "1/3", turn)) for turn in range(3)] == [1, 0, 0]


def test_one_that_does_not_survive_is_counted_and_fails_it() -> None:
    results = [("rotate_a", 4, "applied"), ("rotate_a", 1, FAILED), ("rotate_b", 1, "undone")]
    assert summary(results) == (
        "rotate_a: 5 kills in 2 cases, 1 survivors (1 FAILED, 1 applied)\n"
        "rotate_b: 1 kills in 1 cases, 1 survivors (1 undone)\n"
        "in all: 6 kills in 3 cases, 2 survivors (1 FAILED, 1 applied, 1 undone)"
    )
    assert not all_well(results)
    assert all_well(results[2:])
    assert not all_well([])
