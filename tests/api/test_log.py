"""Logs: what was written since a mark, however the file was rotated meanwhile, without secrets and within bounds."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.api import log
from opslib.runbook.errors import RunbookError

quickly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app-out.log"
    path.write_text("".join(f"old {n}\n" for n in range(5)))
    return path


def write(path: Path, text: str) -> None:
    with path.open("a", newline="") as file:
        file.write(text)


def texts(position: list[log.Position], **limits: int) -> list[str]:
    return [entry.text for entry in log.since(position, **limits)]


def test_gives_what_was_written_since(file: Path) -> None:
    position = log.mark([file])
    assert log.since(position) == []
    write(file, "new 1\nnew 2\r\nunfinished")
    assert texts(position) == ["new 1", "new 2", "unfinished"]
    assert texts(log.mark([file])) == []


@pytest.mark.parametrize("before", ["", "old\n", "x" * 20_000 + "\n"])
def test_a_line_half_written_at_the_mark_is_given_whole(file: Path, before: str) -> None:
    file.write_text(before + '{"level":"error",')
    position = log.mark([file])
    assert texts(position) == []
    write(file, '"message":"whole"}\n')
    assert [(entry.level, entry.text) for entry in log.since(position)] == [("error", "whole")]


def test_a_file_to_come_is_read_from_its_beginning(tmp_path: Path) -> None:
    position = log.mark([tmp_path / "later.log"])
    assert log.since(position) == []
    write(tmp_path / "later.log", "first\n")
    assert texts(position) == ["first"]


def renamed(file: Path) -> None:
    file.rename(f"{file}.1")


def renamed_twice(file: Path) -> None:
    file.rename(f"{file}.2")
    os.utime(f"{file}.2", (1, 1))
    Path(f"{file}.1").write_text("between\n")
    os.utime(f"{file}.1", (2, 2))


def compressed(file: Path) -> None:
    Path(f"{file}.1.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


def dated(file: Path) -> None:
    file.rename(f"{file}-20250101")


def by_pm2(file: Path) -> None:
    file.rename(file.with_name("app-out__2025-01-01_00-00-00.log"))


def by_winston(file: Path) -> None:
    file.rename(file.with_name("app-out1.log"))


def copied_and_cut(file: Path) -> None:
    shutil.copy(file, f"{file}.1")
    os.truncate(file, 0)


def copied_and_cut_and_grown(file: Path) -> None:
    copied_and_cut(file)
    write(file, "much later\n" * 20)


def while_compressing(file: Path) -> None:
    Path(f"{file}.1.gz").write_bytes(gzip.compress(file.read_bytes())[:-12])
    renamed(file)


@pytest.mark.parametrize(
    "rotate",
    [
        renamed,
        renamed_twice,
        compressed,
        dated,
        by_pm2,
        by_winston,
        copied_and_cut,
        copied_and_cut_and_grown,
        while_compressing,
    ],
)
def test_rotation_loses_nothing(file: Path, rotate: Callable[[Path], None]) -> None:
    file.with_name("app-out-0.log").write_text("of another worker\n")
    position = log.mark([file])
    write(file, "before rotation\n")
    rotate(file)
    write(file, "after rotation\n")
    between: dict[Callable[[Path], None], list[str]] = {
        renamed_twice: ["between"],
        copied_and_cut_and_grown: ["much later (and 19 more)"],
    }
    assert texts(position) == ["before rotation", *between.get(rotate, []), "after rotation"]


def cut(file: Path) -> None:
    os.truncate(file, 0)


def removed(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def cut_and_grown(file: Path) -> None:
    file.write_text("other\n" * 100)


@pytest.mark.parametrize("harm", [cut, removed, replaced, cut_and_grown])
def test_says_that_the_marked_place_is_gone(file: Path, harm: Callable[[Path], None]) -> None:
    position = log.mark([file])
    harm(file)
    write(file, "still here\n")
    lost, *_, last = log.since(position)
    assert lost.level == log.LOST
    assert last.text == "still here"
    assert lost in log.errors([lost, last])


def test_no_file_any_more_is_said_too(file: Path) -> None:
    position = log.mark([file])
    file.unlink()
    assert [entry.level for entry in log.since(position)] == [log.LOST]


def test_a_file_empty_at_the_mark_is_known_by_its_inode(file: Path) -> None:
    os.truncate(file, 0)
    position = log.mark([file])
    write(file, "first\n")
    renamed(file)
    write(file, "second\n")
    assert texts(position) == ["first", "second"]


def test_says_what_it_leaves_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    position = log.mark([file])
    write(file, "".join(f"new {n}\n" for n in range(100)))
    assert texts(position, limit=2) == ["(98 earlier entries since then are left out)", "new 98", "new 99"]
    monkeypatch.setattr(log, "LIMIT_BYTES", 15)
    note, *rest = texts(position)
    assert rest == ["new 98", "new 99"]
    assert note == f"({sum(len(f'new {n}.') for n in range(98))} bytes since then are left out)"


@pytest.mark.parametrize("rotate", [renamed, compressed])
def test_bounds_hold_across_rotation(
    file: Path, rotate: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LIMIT_BYTES", 30)
    position = log.mark([file])
    write(file, "".join(f"new {n}\n" for n in range(100)))
    rotate(file)
    write(file, "last\n")
    note, *rest = texts(position)
    assert rest == ["new 97", "new 98", "new 99", "last"][-len(rest) :]
    assert len(rest) >= 3
    assert note.endswith("bytes since then are left out)")


def test_ends_though_the_file_grows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT_BYTES", 1000)
    position, done = log.mark([file]), threading.Event()

    def grow() -> None:
        with file.open("a") as stream:
            while not done.is_set():
                stream.write("more\n" * 1000)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _ in range(20):
            assert len(log.since(position)) <= log.LIMIT_ENTRIES + 1
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_refuses_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "strange")
    with pytest.raises(RunbookError, match="is not a regular file"):
        log.mark([tmp_path / "strange"])


def test_says_that_an_archive_is_damaged(file: Path) -> None:
    position = log.mark([file])
    write(file, "".join(f"{n * 7919 % 1000}\n" for n in range(200_000)))
    compressed(file)
    packed = Path(f"{file}.1.gz")
    packed.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(RunbookError, match="damaged or still being compressed"):
        log.since(position)


THROWN = """/srv/api/server.js:10
    throw new TypeError("no");
    ^

TypeError: no
    at main (/srv/api/server.js:10:11) {
  code: 'E'
}
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            {"level": "info", "message": "up", "timestamp": "2025-01-01T00:00:00Z"},
            ("2025-01-01T00:00:00Z", "info", "up"),
        ),
        ({"level": "error", "message": "no", "stack": "Error: no\n    at x"}, ("", "error", "Error: no\n    at x")),
        (
            {"level": "error", "message": "❌ GET / failed", "stack": "Error: no"},
            ("", "error", "❌ GET / failed\nError: no"),
        ),
        ({"level": "\x1b[31merror\x1b[39m", "message": "red"}, ("", "error", "red")),
        ({"error_severity": "FATAL", "message": "gone", "timestamp": "t"}, ("t", "FATAL", "gone")),
        ({"message": 3}, ("", "", "3")),
        ({"no": "message"}, ("", "", '{"no": "message"}')),
        ([1], ("", "", "[1]")),
        ("2025-01-01T10:00:00: started", ("2025-01-01T10:00:00", "", "started")),
        ("[2025-01-01 10:00:00.1 UTC] started", ("2025-01-01 10:00:00.1 UTC", "", "started")),
        ('2025-01-01T10:00:00: {"level":"warn","message":"slow"}', ("2025-01-01T10:00:00", "warn", "slow")),
        ('{"level":"error"', ("", "", '{"level":"error"')),
        ("{" * 50_000, ("", "", "{" * log.TEXT_LENGTH + "…")),
        (THROWN, ("", "", THROWN.strip())),
        ("caf\udce9 \x1b[2Jgone\u202e", ("", "", "caf� \\x1b[2Jgone\\u202e")),
    ],
)
def test_understands_entries(file: Path, line: object, expected: tuple[str, str, str]) -> None:
    position = log.mark([file])
    text = line if isinstance(line, str) else json.dumps(line)
    with file.open("ab") as stream:
        stream.write(text.encode(errors="surrogateescape") + b"\n")
    assert [(entry.time, entry.level, entry.text) for entry in log.since(position)] == [expected]


def test_entries_stay_in_order_and_apart(file: Path) -> None:
    position = log.mark([file])
    write(file, f'before\n{{"level":"info","message":"a"}}\n{THROWN}\nNode.js v20\nsame\nsame\n')
    assert texts(position) == ["before", "a", THROWN.strip(), "Node.js v20", "same (and 1 more)"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (("out.log", "error", "x"), True),
        (("out.log", "FATAL", "x"), True),
        (("out.log", "info", "Error: told as information"), False),
        (("out.log", "", "TypeError: x"), True),
        (("out.log", "", "Error [ERR_HTTP_HEADERS_SENT]: x"), True),
        (("out.log", "", "❌ Email send failed"), True),
        (("out.log", "", "2025 [7] PANIC:  x"), True),
        (("out.log", "", "UnhandledPromiseRejection"), True),
        (("out.log", "", "Uncaught exception"), True),
        (("out.log", "", "the author of this terror left no errors"), False),
        (("out.log", "", "0 errors"), False),
        (("mirror.log", "", "ok"), False),
        (("app-error-0.log", "", "anything"), True),
        (("app-error.log", "warn", "slow"), False),
        (("stderr", "", "anything"), True),
    ],
)
def test_tells_errors(entry: tuple[str, str, str], expected: bool) -> None:
    file, level, text = entry
    assert bool(log.errors([log.Entry(file, "", level, text)])) is expected


word = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=20, max_size=40)
capitals = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16)
password = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=8).map(
    lambda text: f"{text}Zq9"
)


@settings(deadline=None)
@given(st.data())
def test_secrets_are_not_shown(data: st.DataObject) -> None:
    secret = data.draw(word)
    shapes = {
        f"sk_live_{secret}": "[sk_live…]",
        f"rk_test_{secret}": "[rk_test…]",
        f"whsec_{secret}": "[whsec…]",
        f"AKIA{(aws := data.draw(capitals))}": "[AKIA…]",
        f"SG.{secret}.{secret}": "[SG…]",
        f"Bearer {secret}": "[Bearer…]",
        f"eyJ{secret}.eyJ{secret}.{secret}": "[JWT…]",
        f"postgres://app:{(own := data.draw(password))}@db:5432/app?schema=x": "postgres://app:[…]@db:5432/app?schema=x",
        f"redis://:{own}@cache": "redis://:[…]@cache",
    }
    shape = data.draw(st.sampled_from(list(shapes)))
    before, after = data.draw(st.sampled_from([("", ""), ("key ", " was used"), ("key='", "'"), ('{"a":"', '"}')]))
    shown = log.redact(before + shape + after)
    assert shown == before + shapes[shape] + after
    assert not any(part in shown for part in (secret, aws, own))
    assert log.redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["Bearer authentication", "task_live_updates", "ASIA_PACIFIC_REGION", "http://host:80/a@b", "a@b.example", "SG.1"],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert log.redact(text) == text


@quickly
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=5), st.binary(max_size=50))
def test_any_bytes_can_be_read(file: Path, lines: list[str], junk: bytes) -> None:
    position = log.mark([file])
    with file.open("ab") as stream:
        stream.write("\n".join(lines).encode() + junk)
    for entry in log.since(position):
        assert all(character.isprintable() or character in "\n\t" for character in entry.text)
