"""The `.env`: what Node's dotenv reads from it, and edits that change what was asked and nothing else."""

import base64
import fcntl
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.deployment import env_file
from opslib.deployment.env_file import EnvFileError
from tests.sandbox.layout import NODE_MODULES
from tests.sandbox.toolchain import node

SECRET = "s3cr3t-value"
READER = """
const { parse } = require(process.argv[1]);
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(JSON.stringify(Object.entries(parse(Buffer.from(line, "base64")))));
});
"""
FORK = multiprocessing.get_context("fork")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root may")
quickly = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.text(st.sampled_from("ab1 \t\n\r'\"`\\#=$nr:é\u2028\ufeff") | st.characters(exclude_categories=["Cs"]))
lines = st.one_of(
    st.sampled_from(
        ["", "# a comment", "no assignment", "export A=1", "B: yes", "A='it\\'s'", "KEY=a#b", "KEY =", "A='1\n2'"]
    ),
    st.builds(
        "{}{}{}{}{}{}{}".format,
        st.sampled_from(["", " ", "export ", "\ufeff"]),
        st.sampled_from(["A", "B", "KEY", "a.b-c", "1"]),
        st.sampled_from(["=", " = ", ": ", ":", "=\n"]),
        quote := st.sampled_from(["", "'", '"', "`"]),
        values,
        quote,
        st.sampled_from(["", " ", " # c", "#c", "x"]),
    ),
)
texts = st.builds(
    lambda parts, newline, end: newline.join(parts) + end, st.lists(lines), *[st.sampled_from(["\n", "\r\n"])] * 2
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app" / ".env"
    path.parent.mkdir()
    path.write_bytes(b"# the API\nA=1\nSECRET=s3cr3t-value # old\n")
    path.chmod(0o640)
    return path


@pytest.fixture(scope="module")
def dotenv() -> Iterator[Callable[[bytes], dict[str, str]]]:
    """Give dotenv's own reading of some bytes."""
    package = NODE_MODULES / "dotenv"
    if not package.exists():
        pytest.skip("dotenv is not installed: run `make sandbox` once")
    command = [str(node()), "--eval", READER, str(package)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        asked, answered = process.stdin, process.stdout

        def read(data: bytes) -> dict[str, str]:
            print(base64.b64encode(data).decode(), file=asked, flush=True)
            return dict(json.loads(answered.readline()))

        yield read
        asked.close()


def others(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each.name != path.name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=a#b", {"A": "a"}),
        ("A='a#b'", {"A": "a#b"}),
        ("A=a # b", {"A": "a"}),
        ("export A=1", {"A": "1"}),
        ("A: 1\nB:2", {"A": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("A='x\\ny'\nB=\"x\\ny\"\nC=`x\\ny`", {"A": "x\\ny", "B": "x\ny", "C": "x\\ny"}),
        ("A='1\n2'\nB=`'\"`", {"A": "1\n2", "B": "'\""}),
        ("A='open\nB=2", {"A": "'open", "B": "2"}),
        ("A=\nB= \nC=  x  ", {"A": "", "B": "", "C": "x"}),
        ("# A=1\n", {}),
        ("", {}),
    ],
)
def test_reads_what_the_application_sees(
    file: Path, dotenv: Callable[[bytes], dict[str, str]], text: str, expected: dict[str, str]
) -> None:
    file.write_bytes(text.encode())
    assert env_file.read(file) == dotenv(text.encode()) == expected


@quickly
@given(text=texts)
def test_reads_as_dotenv_does(file: Path, dotenv: Callable[[bytes], dict[str, str]], text: str) -> None:
    file.write_bytes(text.encode())
    assert env_file.read(file) == dotenv(text.encode())


@quickly
@given(text=texts, changes=st.dictionaries(st.sampled_from(["A", "B", "NEW"]), st.none() | values, max_size=2))
def test_an_edit_changes_what_was_asked_or_nothing(
    file: Path, dotenv: Callable[[bytes], dict[str, str]], text: str, changes: dict[str, str | None]
) -> None:
    file.write_bytes(before := text.encode())
    wanted = {**dotenv(before), **changes}
    try:
        edit = env_file.edit(file, changes)
    except EnvFileError:
        assert file.read_bytes() == before
        assert others(file) == []
        return
    assert dotenv(file.read_bytes()) == {key: value for key, value in wanted.items() if value is not None}
    if edit:
        env_file.restore(edit)
        env_file.drop(edit)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("before", "key", "value", "after"),
    [
        ("A=1\nA=2\n", "A", "3", "A=1\nA=3\n"),
        ("A=1\nA=2\nB=3", "A", None, "B=3"),
        ("A=1\nB=2", "B", None, "A=1\n"),
        ("A = 1  # why\r\nB=2\r\n", "A", "x y", "A = 'x y'  # why\r\nB=2\r\n"),
        ("export A='1'\n", "A", "2", "export A=2\n"),
        ("\ufeffA: 1\n", "A", "2", "\ufeffA: 2\n"),
        ("A=1\r\n", "B", "2", "A=1\r\nB=2\r\n"),
        ("A=1", "B", "2", "A=1\nB=2"),
        ("A='1\n2'\nB=3\n", "A", "4", "A=4\nB=3\n"),
        ("A='1\n2' # c\n# d\nB=3\n", "A", None, "# d\nB=3\n"),
        ("A=1\n", "A", "a#b", "A='a#b'\n"),
        ("A=1\n", "A", "it's", "A=`it's`\n"),
        ("A=1\n", "A", "'`", 'A="\'`"\n'),
        ("A=1\n", "A", "a\rb", 'A="a\\rb"\n'),
        ("A=1\n", "A", "", "A=\n"),
        ("A=1\r\n", "A", "1\n2", "A='1\r\n2'\r\n"),
        ("", "A", "1", "A=1\n"),
    ],
)
def test_every_other_byte_stays(file: Path, before: str, key: str, value: str | None, after: str) -> None:
    file.write_bytes(before.encode())
    assert env_file.edit(file, {key: value})
    assert file.read_bytes() == after.encode()


def test_what_is_there_already_is_not_edited(file: Path) -> None:
    assert env_file.edit(file, {"SECRET": SECRET, "GONE": None}) is None
    assert others(file) == []


def test_without_a_backup_nothing_is_left_beside_it(file: Path) -> None:
    assert env_file.edit(file, {"A": "2"}, backup=False) is None
    assert env_file.read(file)["A"] == "2"
    assert others(file) == []


@pytest.mark.parametrize(
    ("before", "key", "value", "says"),
    [
        (b"A=1\n", "A", "'\"`" + SECRET, "no quotes can carry the new value of A "),
        (b"A=1\n", "A", "\0" + SECRET, "no quotes can carry"),
        (b"A=1\n", "A", "\ud800" + SECRET, "no quotes can carry"),
        (b"B=2\nA:", "A", SECRET, "line 2"),
        (b"A=1\n", f"A={SECRET}", "1", "no dotenv name"),
        (b"A=1\nB=s3cr3t-value\xff\n", "A", "1", "line 2 is not UTF-8"),
    ],
)
def test_refuses_what_cannot_be_done_safely(file: Path, before: bytes, key: str, value: str, says: str) -> None:
    file.write_bytes(before)
    with pytest.raises(EnvFileError, match=says) as refused:
        env_file.edit(file, {"FIRST": "1", key: value})
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None
    assert file.read_bytes() == before
    assert others(file) == []


def test_a_symbolic_link_stays(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("app/.env")
    edit = env_file.edit(link, {"A": "2"})
    assert link.is_symlink()
    assert edit
    assert edit.path == file
    assert env_file.edits(link) == [edit]
    assert env_file.read(file)["A"] == "2"


def test_mode_stays_and_the_backup_is_private(file: Path) -> None:
    edit = env_file.edit(file, {"A": "2"})
    assert edit
    assert file.stat().st_mode & 0o777 == 0o640
    assert edit.backup.stat().st_mode & 0o777 == 0o600
    assert SECRET not in repr(edit)


def _attributes(path: Path) -> list[str]:
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        return []
    return os.listxattr(path)


def test_extended_attributes_stay(file: Path) -> None:
    if not _attributes(file):
        pytest.skip("this file system has no extended attributes")
    env_file.edit(file, {"A": "2"})
    assert os.getxattr(file, "user.note") == b"kept"


@as_root
def test_the_owner_stays(file: Path) -> None:
    os.chown(file, 1234, 2345)
    edit = env_file.edit(file, {"A": "2"})
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)
    assert edit
    env_file.restore(edit)
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (1234, 2345, 0o640)


def _message(act: Callable[[], object], before: Callable[[], object]) -> str:
    """Run two things in a process of their own and give what the second was refused with."""
    receive, send = FORK.Pipe(duplex=False)

    def work() -> None:
        before()
        try:
            act()
        except EnvFileError as error:
            send.send(str(error))
        else:
            send.send("")

    process = FORK.Process(target=work)
    process.start()
    try:
        assert receive.poll(10), "the process said nothing"
        return str(receive.recv())
    finally:
        process.join()
        process.close()
        receive.close()
        send.close()


@as_root
@pytest.mark.parametrize(
    ("file_mode", "directory_mode", "says"),
    [
        (0o666, 0o777, "Operation not permitted"),  # ours to write, but the new file could not be given its owner
        (0o644, 0o777, ".env is not writable"),
        (0o666, 0o755, "not writable"),
        (0o600, 0o777, ".env is not writable"),
        (0o444, 0o777, "read-only"),
        (0o644, 0o700, "Permission denied"),
    ],
)
def test_refuses_the_file_of_somebody_else(file_mode: int, directory_mode: int, says: str) -> None:
    def become_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    with tempfile.TemporaryDirectory() as folder:  # others may not enter pytest's own
        file = Path(folder, ".env")
        file.write_bytes(b"A=1\n")
        file.chmod(file_mode)
        file.parent.chmod(directory_mode)
        assert says in _message(lambda: env_file.edit(file, {"A": "2"}), before=become_nobody)
        assert file.read_bytes() == b"A=1\n"
        assert others(file) == []


def _read_only(file: Path) -> None:
    file.chmod(0o440)


def _linked(file: Path) -> None:
    os.link(file, file.with_name("second"))


def _missing(file: Path) -> None:
    file.unlink()


def _looping(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_read_only, "read-only"),
        (_linked, "2 hard links"),
        (_missing, "No such file"),
        (_looping, "Too many levels"),
        (_directory, "regular file"),
    ],
)
def test_refuses_before_anything_changes(file: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(file)
    there = others(file)
    with pytest.raises(EnvFileError, match=says):
        env_file.edit(file, {"A": "2"})
    assert others(file) == there


@pytest.mark.parametrize("harm", [_missing, _looping, _directory])
def test_says_why_it_cannot_read(file: Path, harm: Callable[[Path], None]) -> None:
    harm(file)
    with pytest.raises(EnvFileError, match="cannot be read"):
        env_file.read(file)


def test_restore_converges(file: Path) -> None:
    before = file.read_bytes()
    edit = env_file.edit(file, {"A": "2", "NEW": SECRET})
    assert edit
    for _ in range(2):
        env_file.restore(edit)
        assert file.read_bytes() == before
    for _ in range(2):
        env_file.drop(edit)
    env_file.restore(edit)  # nothing to do, so the backup is not missed
    assert others(file) == []


def test_edits_are_undone_newest_first(file: Path) -> None:
    before = file.read_bytes()
    for value in "234":
        env_file.edit(file, {"A": value})
    made = env_file.edits(file)
    assert len(made) == 3
    with pytest.raises(EnvFileError, match="changed after the edit"):
        env_file.restore(made[0])
    for edit in reversed(made):
        env_file.restore(edit)
    assert file.read_bytes() == before


def test_restore_refuses_what_it_did_not_make(file: Path) -> None:
    edit = env_file.edit(file, {"A": SECRET})
    assert edit
    saved = edit.backup.read_bytes()
    edit.backup.write_bytes(saved[:-1])
    with pytest.raises(EnvFileError, match="is not what the edit saved"):
        env_file.restore(edit)
    edit.backup.unlink()
    with pytest.raises(EnvFileError, match="cannot be read"):
        env_file.restore(edit)
    file.write_bytes(after := b"by=hand\n")
    with pytest.raises(EnvFileError, match="changed after the edit"):
        env_file.restore(edit)
    assert file.read_bytes() == after


def test_sees_a_change_made_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = env_file._create

    def meddled(path: Path, data: bytes, *, like: Path | None = None) -> None:
        create(path, data, like=like)
        file.write_bytes(b"A=other\n")

    monkeypatch.setattr(env_file, "_create", meddled)
    with pytest.raises(EnvFileError, match="somebody else meanwhile"):
        env_file.edit(file, {"A": "2"})
    assert file.read_bytes() == b"A=other\n"
    assert others(file) == []


def test_does_not_wait_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_file, "_LOCK_SECONDS", 0.1)
    directory = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        with pytest.raises(EnvFileError, match="has been locked for"):
            env_file.edit(file, {"A": "2"})
    finally:
        os.close(directory)
    assert env_file.edit(file, {"A": "2"})


def test_two_processes_lose_nothing(file: Path) -> None:
    def work(name: str) -> None:
        for number in range(15):
            env_file.edit(file, {f"{name}{number}": "1"})

    processes = [FORK.Process(target=work, args=(name,)) for name in "XY"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert env_file.read(file).keys() == {"A", "SECRET"} | {f"{name}{n}" for name in "XY" for n in range(15)}
    assert len(env_file.edits(file)) == 30


def test_killed_at_any_moment_it_holds_the_old_or_the_new(file: Path) -> None:
    def work() -> None:
        while True:
            env_file.edit(file, {"A": "2" * 5000})
            env_file.edit(file, {"A": "1"})

    moments = random.Random(1)
    for _ in range(25):
        process = FORK.Process(target=work)
        process.start()
        time.sleep(moments.uniform(0.005, 0.05))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        process.close()
        assert env_file.read(file) in [{"A": a, "SECRET": SECRET} for a in ("1", "2" * 5000)]
        made = env_file.edits(file)
        now = file.read_bytes()
        if made and env_file._digest(now) == made[-1].after:
            env_file.restore(made[-1])
            assert file.read_bytes() != now
    env_file.edit(file, {"A": "3"})
    assert not [name for name in others(file) if name.endswith(".tmp")]


@pytest.fixture(params=["the same file system", "another one", "another mount of the same one"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for what an edit makes, from which a file can be renamed to where the `.env` is, or cannot."""
    made = tmp_path / "ours"
    made.mkdir()
    mounting = {"another one": ["-t", "tmpfs", "none"], "another mount of the same one": ["--bind", str(made)]}
    if not (how := mounting.get(request.param)):
        yield made
        return
    if not shutil.which("mount") or subprocess.run(["mount", *how, made], check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield made
    subprocess.run(["umount", made], check=True)


def test_in_a_folder_nothing_lies_beside(file: Path, folder: Path) -> None:
    before, mode = file.read_bytes(), file.stat().st_mode
    for left in (folder, file.parent):
        (left / ".env.opslib.tmp").write_text(SECRET)  # by a process that was killed
    edit = env_file.edit(file, {"A": "2"}, folder=folder)
    assert edit and edit.backup.stat().st_mode & 0o777 == 0o600
    assert (env_file.read(file)["A"], file.stat().st_mode, others(file)) == ("2", mode, [])
    assert env_file.edits(file, folder) == [edit] == [env_file.latest(file, folder)]
    assert list(folder.iterdir()) == [edit.backup] and not env_file.edits(file)
    env_file.restore(edit)
    env_file.drop(edit)
    assert (file.read_bytes(), file.stat().st_mode) == (before, mode)
    assert others(file) == [] == list(folder.iterdir())


def test_in_a_folder_an_edit_that_fails_leaves_nothing(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = env_file._create

    def meddled(path: Path, data: bytes, *, like: Path | None = None) -> None:
        create(path, data, like=like)
        if path.parent == file.parent or os.path.ismount(folder) is False:
            file.write_bytes(b"A=other\n")

    monkeypatch.setattr(env_file, "_create", meddled)
    with pytest.raises(EnvFileError, match="somebody else meanwhile"):
        env_file.edit(file, {"A": "2"}, folder=folder)
    assert (file.read_bytes(), others(file), list(folder.iterdir())) == (b"A=other\n", [], [])


def test_killed_at_any_moment_it_leaves_nothing_beside(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()

    def work() -> None:
        while True:
            env_file.edit(file, {"A": "2" * 5000}, folder=folder)
            env_file.edit(file, {"A": "1"}, folder=folder)

    moments = random.Random(2)
    for _ in range(25):
        process = FORK.Process(target=work)
        process.start()
        time.sleep(moments.uniform(0.005, 0.05))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        process.close()
        assert env_file.read(file) in [{"A": a, "SECRET": SECRET} for a in ("1", "2" * 5000)]
        assert others(file) == []
        if made := env_file.latest(file, folder):
            env_file.restore(made)
    env_file.edit(file, {"A": "3"}, folder=folder)
    assert {one.suffix for one in folder.iterdir()} == {".bak"}


@as_root
@pytest.mark.parametrize("length", [1, 20_000])  # no room for the backup, no room for the new file
def test_a_full_disk_changes_nothing(tmp_path: Path, length: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("cannot mount a small file system here")
    try:
        path = disk / ".env"
        path.write_bytes(b"A=1\n")
        with pytest.raises(EnvFileError, match="No space left on device") as refused:
            env_file.edit(path, {"A": SECRET * length})
        assert SECRET not in str(refused.value)
        assert path.read_bytes() == b"A=1\n"
        assert others(path) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_too_large_changes_nothing(file: Path) -> None:
    before = file.read_bytes()
    said = _message(
        lambda: env_file.edit(file, {"A": "x" * 5000}),
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert "File too large" in said
    assert file.read_bytes() == before
    assert others(file) == []


def test_fingerprints_tell_secrets_apart() -> None:
    assert env_file.fingerprint("a") == env_file.fingerprint("a") == "373e4a43"
    assert env_file.fingerprint("a") != env_file.fingerprint("b")
    assert len(env_file.fingerprint("\ud800")) == 8
