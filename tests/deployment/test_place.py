"""The place of our own files: made for its owner only, refused where git would take them, the same for every run."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.api import handover
from opslib.deployment import env_file, staged_secret
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment, Refused
from tests.place import Place

TAKEN = ".runbook.lock, runbook.handover, .env.staged, .env.opslib.tmp, "
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root may")


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@propertypulse.example"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def checkout(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the `.env`, as a checkout that ignores `.env` and nothing else."""
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    app = place.folder / "app"
    git(app, "init", "--quiet")
    (app / ".gitignore").write_text(".env\n")
    git(app, "add", "--all")
    git(app, "commit", "--quiet", "--message", "As it is")
    return app


def described(place: Place, folder: str = "") -> PropertyPulse:
    with (place.folder / "parameters/test.yaml").open("a") as file:
        file.write(f"folder: {folder}\n" if folder else "")
    return propertypulse.load("test")


def test_a_run_that_applies_is_refused_and_says_what_to_do(place: Place, checkout: Path) -> None:
    change = "run.plan(Change('Set it', [act('set', run=print)], undo=Kept('fine'), replaces=lambda: ''))"
    place.write("act", change, "run.finish()")
    code, _ = place.run("act")
    assert (code, git(checkout, "status", "--porcelain")) == (0, "")
    done = place.runbook("run", "act", "--apply")
    assert done.returncode == 4, done.stdout
    said = " ".join(done.stdout.split())
    assert f"{checkout} lies in a git checkout that does not ignore what runs keep there ({TAKEN}" in said
    assert "Put `folder: ~/.runbook/test` into parameters/test.yaml" in said
    assert git(checkout, "status", "--porcelain") == ""
    described(place, "ours/here")
    done = place.runbook("run", "act", "--apply")
    assert "Put `folder:" not in done.stdout, done.stdout
    assert os.listdir(place.folder / "ours/here") == [".runbook.lock"]
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("folder", "ignored", "taken"),
    [
        ("", ".env", TAKEN),
        ("", ".env.*", ".runbook.lock, runbook.handover"),
        ("", ".env*\n.runbook.lock\nrunbook.handover", None),
        ("", "*", None),
        ("app/ours", ".env", TAKEN),
        ("app/ours", "ours/", None),  # though it is not there yet
        ("app/ours", "/ours/*\n!.env.staged", ".env.staged"),
        ("app/linked", "linked", TAKEN),  # to where git does not ignore it
        ("app/.git/ours", "", None),
        ("outside", "", None),
    ],
)
def test_git_is_asked(place: Place, checkout: Path, folder: str, ignored: str, taken: str | None) -> None:
    (checkout / "ours two").mkdir()
    (checkout / "linked").symlink_to("ours two")
    (checkout / ".gitignore").write_text(f"{ignored}\n")
    env = described(place, folder)
    if taken is None:
        env.prepare()
        assert env.place.is_dir()
    else:
        with pytest.raises(Refused, match=rf"keep there \({taken}"):
            env.prepare()
        assert folder == "app/linked" or not folder or not env.place.exists()


def test_what_was_committed_is_not_ignored(place: Place, checkout: Path) -> None:
    (checkout / ".runbook.lock").touch()
    git(checkout, "add", ".runbook.lock")
    git(checkout, "commit", "--quiet", "--message", "All that there was")
    (checkout / ".gitignore").write_text("*\n")
    with pytest.raises(Refused, match=r"keep there \(\.runbook\.lock\)"):
        described(place).prepare()


@as_root
def test_what_git_does_not_say_is_no_yes(place: Place, checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*\n")
    for path in (checkout, checkout / ".git"):
        os.chown(path, 65534, 65534)
    with pytest.raises(Refused, match=r"cannot be told: .* safe\.directory "):
        described(place).prepare()


def test_without_git_nothing_can_get_into_it(place: Place, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.folder))
    described(place).prepare()


def test_it_is_made_for_its_owner_only(place: Place, checkout: Path) -> None:
    env = described(place, "ours/here")
    before = os.umask(0)
    try:
        env.prepare()
    finally:
        os.umask(before)
    assert env.place.stat().st_mode & 0o777 == 0o700
    staged_secret.write(env, {"JWT_SECRET_PENDING": "to come"})
    env_file.edit(env.api.env_file, {"PORT": "1"}, folder=env.place)
    assert handover._file(env).parent == env.lock.parent == env.staged.parent == env.place
    assert {one.stat().st_mode & 0o777 for one in env.place.iterdir()} == {0o600}
    assert env.values()["JWT_SECRET_PENDING"] == "to come"
    assert git(checkout, "status", "--porcelain") == ""
    assert sorted(os.listdir(checkout)) == [".env", ".git", ".gitignore"]


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755])
def test_others_may_not_look_into_it(place: Place, checkout: Path, mode: int) -> None:
    env = described(place, "ours")
    env.place.mkdir()
    env.place.chmod(mode)
    with pytest.raises(Refused, match=r"is open to others .*chmod 700 ") as refused:
        env.prepare()
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True)
    env.prepare()


def test_a_file_in_its_way_is_told(place: Place, checkout: Path) -> None:
    env = described(place, "ours")
    env.place.touch()
    with pytest.raises(Refused, match="ours cannot be made for the files of runs: File exists"):
        env.prepare()


def test_what_lay_beside_the_env_is_not_forgotten(place: Place, checkout: Path) -> None:
    env = described(place)
    staged_secret.write(env, {"JWT_SECRET_PENDING": "to come"})
    made = env_file.edit(env.api.env_file, {"PORT": "1"}, folder=env.place)
    assert made
    moved = described(place, shlex.quote("our place"))
    with pytest.raises(BadEnvironment, match=r"bak, \.env\.staged lie beside the \.env") as refused:
        moved.values()
    subprocess.run(str(refused.value).split("`")[3], shell=True, check=True)
    moved.prepare()
    assert moved.values()["JWT_SECRET_PENDING"] == "to come"
    assert (found := env_file.latest(moved.api.env_file, moved.place)) and found.backup.name == made.backup.name
