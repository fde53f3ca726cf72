"""The two grounds that tests stand on: a place of their own, and the stand-in, started once."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks, sandbox as standin
from tests.place import Place
from tests.sandbox.plain import deployment
from tests.shards import SHARDS

# Where tests run in the background these are ignored, and so they would be in the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


FIRST = (
    *("notebooks", "execution", "crash_matrix", "restart_api", "repair_payment_status", "plain", "login_faults"),
    *("payments_plain", "tokens_plain", "restart_plain", "sandbox", "lab", "aws_faults", "check_email_delivery"),
)
"""The longest files of tests, which are begun first, so that the shards end together."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; before all, what notebooks show, with a stand-in to which nothing has happened yet.

    A shard takes the tests of one file, but of what notebooks show each shard takes its part.
    """
    places = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))
    outputs = itertools.cycle(f"outputs {number}" for number in range(SHARDS))
    for item in items:
        of_outputs = getattr(item, "originalname", "") == "test_outputs_are_still_true"
        item.add_marker(pytest.mark.xdist_group(next(outputs) if of_outputs else item.path.name))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with notebooks/, parameters/ and an `.env` of its own."""
    return Place(tmp_path / "place")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[None]:
    """The stand-in, running and unbroken; stopped at the end unless it ran before.

    At the end no record, export or log that the tests have left may hold one of its secrets.
    """
    started = standin.start()
    standin.mend()
    yield
    assert leaks.left() == []
    if started:
        standin.stop()


@pytest.fixture(scope="module")
def plain(sandbox: None) -> Iterator[None]:
    """The plain stand-in in fork mode, beside the other."""
    deployment.stop()
    deployment.start()
    yield
    deployment.stop()
