"""Two hosts that share a bucket and a server: each clears away what it has left itself, and nothing of the other's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.backups import backup_proof, restore, retention, store
from opslib.backups.multipart import SMALLEST, Upload
from opslib.backups.store import ARCHIVE, Bucket, Store
from opslib.database import admin
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

pytestmark = pytest.mark.usefixtures("sandbox")

ENV = propertypulse.load("sandbox")
HOSTS = ("first", "second")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A file of two parts of an upload."""
    file = tmp_path / "archive"
    file.write_bytes(bytes(SMALLEST + 9))
    return file


class Host:
    """A machine of this name that takes a backup, and is in the middle of it."""

    def __init__(self, name: str, archive: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("socket.gethostname", lambda: name)
        self.places: list[Store] = [Bucket(ENV)]
        self.scratch, self.name = backup_proof.scratch(ENV), f"20300131T023000Z-0123abcd-{store.owner(ENV)}{ARCHIVE}"
        assert isinstance(self.places[0], Bucket)
        self.upload = Upload(self.places[0], self.name, archive, SMALLEST)
        self.upload.grown(SMALLEST)

    def clear(self, patch: pytest.MonkeyPatch, name: str) -> list[str]:
        """Clear away what this host has left; give what that was."""
        patch.setattr("socket.gethostname", lambda: name)
        acts = retention.left(ENV, self.places)
        for act in acts:
            act.run()
        return [act.shown for act in acts]


@pytest.fixture
def hosts(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Host]]:
    """Both hosts, each with an upload under way and a scratch database; nothing of either is left afterwards."""
    found = {name: Host(name, archive, monkeypatch) for name in HOSTS}
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        for one in found.values():
            superuser.execute(f'CREATE DATABASE "{one.scratch}" TEMPLATE template0')
    yield found
    for one in found.values():
        one.upload.abort()
        one.places[0].delete(one.name)
        restore.drop(ENV, one.scratch).run()


def test_only_ones_own_upload_and_database_are_cleared_away(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch, archive: Path
) -> None:
    first, second = (hosts[name] for name in HOSTS)
    assert first.name != second.name and first.scratch != second.scratch
    cleared = first.clear(monkeypatch, HOSTS[0])
    assert len(cleared) == 2 and all("abort_multipart_upload" in line or "DROP DATABASE" in line for line in cleared)
    assert [one for one in cleared if second.scratch in one or second.name in one] == []
    with admin.connect(ENV, admin.MAINTENANCE) as superuser:
        assert [admin.exists(superuser, one.scratch) for one in (first, second)] == [False, True]
    assert second.upload.complete(archive.stat().st_size), second.upload.problem
    assert not first.upload.complete(archive.stat().st_size)


def test_an_archive_whose_manifest_another_host_is_about_to_write_is_no_half(
    hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch, archive: Path
) -> None:
    first, second = (hosts[name] for name in HOSTS)
    assert second.upload.complete(archive.stat().st_size), second.upload.problem
    first.clear(monkeypatch, HOSTS[0])
    assert second.name in second.places[0].names()
    assert any(second.name in line for line in second.clear(monkeypatch, HOSTS[1]))
    assert second.name not in second.places[0].names()
