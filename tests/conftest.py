"""The two grounds that tests stand on: a place of their own, and the stand-in, started once."""

import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from opslib import env_file, environment, record
from tests import leaks, sandbox as standin
from tests.place import Place
from tests.sandbox.credentials import Credentials

# Where tests run in the background these are ignored, and so they would be in the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

KNOWN = {"postgres_user", "login_email"}  # of the credentials, those that are no secret


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the notebooks show is compared first, with a stand-in to which nothing has happened yet."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


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
    secrets = {name: value for name, value in asdict(Credentials.load()).items() if name not in KNOWN}
    env = environment.load("sandbox")
    secrets |= {key: value for key, value in env_file.read(env.api.env_file).items() if key in env.secrets}
    assert leaks.found(secrets, [record.folder(), env.api.pm2_home / "logs", env.api.pm2_home / "pm2.log"]) == []
    if started:
        standin.stop()
