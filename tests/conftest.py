"""The two grounds that tests stand on: a place of their own, and the stand-in, started once."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `tests` as a package, whichever way pytest was started

from tests import sandbox as standin
from tests.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with notebooks/, parameters/ and an `.env` of its own."""
    return Place(tmp_path / "place")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[None]:
    """The stand-in, running and unbroken; stopped at the end unless it ran before."""
    started = standin.start()
    standin.mend()
    yield
    if started:
        standin.stop()
