"""Logs: what was written since a mark, however the file was rotated meanwhile, without secrets and within bounds."""

import gzip
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.api import log
from opslib.api.pm2 import Worker
from opslib.api.settings import Log
from opslib.mail import mail
from opslib.runbook.errors import RunbookError
from tests.sandbox.layout import BIN

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


def test_that_a_log_is_kept_nowhere_is_not_the_same_as_no_error() -> None:
    (one,) = log.errors(log.since(log.mark([Path("/dev/null")])))
    assert "PM2 keeps nothing" in one.text


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
        ("✅ Payment marked as paid: p1", ("", "info", "✅ Payment marked as paid: p1")),
        ("🐌 Slow request: GET /api/x - 1234ms", ("", "warn", "🐌 Slow request: GET /api/x - 1234ms")),
        ("⚠️ Payment not found for intent: pi_1", ("", "warn", "⚠️ Payment not found for intent: pi_1")),
        ("📧 Email send failed: no", ("", "error", "📧 Email send failed: no")),
        ("127.0.0.1:5000: refused", ("", "", "127.0.0.1:5000: refused")),
        ("Error 500: no", ("", "", "Error 500: no")),
        (
            {"message": "❌ no\n", "timestamp": "2026-11-28T10:00:00", "type": "err", "process_id": 0, "app_name": "x"},
            ("2026-11-28T10:00:00", "error", "❌ no"),
        ),
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


MODULE = f"""/srv/api/bundle.js:1
{"x" * 400}
    ^

Error: Cannot find module 'stripe'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1228:15)
"""
BANNER = "".join(f"🚀 Server running on port 5000\n🔔 Processing due reminders...\nline {n}\n" for n in range(20))


def test_a_cause_is_the_error_and_not_the_banner_that_follows_it(file: Path) -> None:
    position = log.mark([file])
    assert log.causes(position) == []
    write(file, "🚀 Server running on port 5000\nready\n")
    assert [one.text for one in log.causes(position)] == ["🚀 Server running on port 5000", "ready"]
    write(file, MODULE + BANNER)
    (cause,) = log.causes(position)
    assert cause.text.startswith("…Error: Cannot find module 'stripe'")


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


# Plain lines, and a time before them

STAMPS = [
    "2026-11-28T10:00:00", "2026-11-28 10:00 +00:00", "2026-11-28 10:00:00 +00:00", "2026-11-28T10:00:00.123Z",
    "10-28 14:02 +00:00", "14:02 +00:00", "28/11/2026 14:02:11", "Nov 28th 2026, 2:02:11 pm", "1764324131123",
    "Saturday, November 28th 2026, 2:02:11 pm", "28.11.2026 14:02", "2026-11-28", "um 14h02 am 28. Nov. 2026",
]  # fmt: skip
FAILED = """📧 Email send failed: ResponseError: Unauthorized
    at node_modules/@sendgrid/client/src/classes/client.js:146:29 {
  code: 401,
  response: {
    body: { errors: [ { message: 'Maximum credits exceeded' } ] }
  }
}
"""
PRISMA = """❌ Stripe webhook error: PrismaClientKnownRequestError:
Invalid `prisma.payment.update()` invocation in
/srv/server/x.js:10:20

→ 10 await prisma.payment.update(
An operation failed because it depends on one or more records.
    at In.handleRequestError (/srv/x.js:1:2) {
  code: 'P2025'
}
"""
OBJECT = """❌ Authentication error:
{ errors: [ { message: 'no' } ] }
🔔 Processing due reminders...
"""


@pytest.mark.parametrize("stamp", STAMPS)
def test_a_time_before_a_line_in_any_format_is_no_part_of_it(file: Path, stamp: str) -> None:
    file.write_text(f'{stamp}: {{"level":"error","message":"Email send failed","to":"a@b.example"}}\n')
    (event,) = log.read([log.Position(file, 0, 0)]).events
    assert (event.time, event.level, event.means, event.said["to"]) == (stamp, "error", "mail failed", "a@b.example")
    assert len(log.errors(log.since([log.Position(file, 0, 0)]))) == 1
    assert event.said["message"] == "Email send failed"
    if stamp.startswith("2026-11-28") and ":" in stamp:
        assert event.at is not None and event.at.year == 2026


@pytest.mark.parametrize("stamp", ["", *STAMPS[:-1]])
@pytest.mark.parametrize("every", [True, False])  # PM2 puts it before every line in fork mode, in cluster mode not
@pytest.mark.parametrize(
    ("text", "means"),
    [(FAILED, ["mail failed"]), (PRISMA, ["webhook failed"]), (OBJECT, ["not authenticated", "job"])],
)
def test_what_is_printed_over_several_lines_is_one_event(
    file: Path, stamp: str, every: bool, text: str, means: list[str]
) -> None:
    lines = [
        f"{stamp}: {line}" if stamp and (every or line[:1] in "📧❌🔔") else line for line in text.splitlines() * 2
    ]
    file.write_text("\n".join(lines) + "\n")
    found = log.read([log.Position(file, 0, 0)])
    assert [one.means for one in found.events] == means * 2
    assert [one.text for one in found.events][: len(means)] == (
        [text.strip()] if len(means) == 1 else [OBJECT.partition("\n🔔")[0], "🔔 Processing due reminders..."]
    )
    assert all(one.level == ("error" if one.means != "job" else "info") for one in found.events)


def test_a_body_belongs_to_the_failure_above_it_and_a_line_of_json_does_not(file: Path) -> None:
    body, other = '{"errors": [{"message": "no"}]}', '{"level": 30, "msg": "GET /"}'
    file.write_text(f"📧 Email send failed: Error: x\n{body}\n{other}\n")
    assert [one.text for one in log.read([log.Position(file, 0, 0)]).events] == [
        f"📧 Email send failed: Error: x\n{body}", other,
    ]  # fmt: skip


def test_every_line_that_procedures_need_is_known(file: Path) -> None:
    lines = {
        "✅ Payment marked as paid: cl1": ("payment paid", {"payment": "cl1"}),
        "⚠️ Payment not found for intent: pi_1": ("payment unknown", {"intent": "pi_1"}),
        "❌ Webhook signature verification failed: No": ("signature refused", {"error": " No"}),
        "❌ Stripe webhook error: x": ("webhook failed", {"error": " x"}),
        "🐌 Slow request: GET /api/x - 1234ms": ("slow request", {"request": "GET /api/x", "milliseconds": "1234"}),
        "📧 Email sent successfully to: a@b.example": ("mail sent", {"to": "a@b.example"}),
        "❌ No token provided": ("not authenticated", {}),
        "🔔 Processing due reminders...": ("job", {}),
        "a line of somebody else's": ("", {}),
    }
    file.write_text("\n".join(lines) + "\n")
    found = log.read([log.Position(file, 0, 0)])
    assert [(one.means, one.said) for one in found.events] == list(lines.values())
    assert (found.legible.ok, found.recognised, len(found.events)) == (True, 8, 9)


def test_a_log_of_which_no_line_is_known_tells_nothing(file: Path) -> None:
    file.write_text("mail went out\nmail came back\n")
    told = log.read([log.Position(file, 0, 0)]).legible
    assert told.ok is None and "none of 2 entries is known" in told.otherwise and "log.lines" in told.otherwise
    own = Log(lines={"mail sent": re.compile("mail went out")})
    found = log.read([log.Position(file, 0, 0)], own)
    assert (found.legible.ok, found.events[0].means) == (True, "mail sent")
    assert own.lines["job"].search("🔔 Processing due reminders...")  # the others stay as they are


def test_a_log_that_is_kept_nowhere_tells_nothing(file: Path) -> None:
    position = log.mark([Path("/dev/null")])
    told = log.read(position).legible
    assert told.ok is None and "/dev/null" in told.otherwise
    assert "/dev/null" in log.since(position)[0].text
    file.write_text("🔔 Processing due reminders...\n")
    own = Log(files=(file,))
    assert log.read([*position, log.Position(file, 0, 0)], own).legible.ok is True


def test_a_mebibyte_of_plain_lines_is_read_in_a_second(file: Path) -> None:
    file.write_text((FAILED + PRISMA + "✅ Payment marked as paid: x\n{\n" + "  a: 1,\n" * 50 + "}\n") * 1200)
    begun = time.process_time()
    log.read([log.Position(file, 0, 0)])
    assert time.process_time() - begun < 3


PRINTS = """
const failed = Object.assign(new Error("Unauthorized"), {
  code: 401, config: { headers: { to: "x" } },
  response: { headers: {}, body: { errors: [{ message: "Maximum credits exceeded", field: null, help: null }] } },
});
console.log("📧 Email sent successfully to: ann@t.example");
console.error("📧 Email send failed:", failed);
console.error("📧 Email send failed:");
console.error(failed);
console.error(failed.response.body);
const bob = { to: "bob@t.example", error: "full", code: 550 };
console.log(JSON.stringify({ level: "error", message: "Email send failed", ...bob }));
console.log("🔔 Processing due reminders...");
setInterval(() => {}, 1000);
"""


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "options",
    [
        (), ("--time",), ("--log-date-format", "YYYY-MM-DD HH:mm Z"), ("--log-date-format", "HH:mm Z"),
        ("--log-type", "json"), ("--time", "-i", "1"), ("-o", "/dev/null", "-e", "/dev/null"),
    ],
)  # fmt: skip
def test_what_pm2_itself_writes_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "api.js").write_text(PRINTS)
    variables = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "PM2_HOME": str(tmp_path / "pm2")}
    try:
        command = ["pm2", "start", str(tmp_path / "api.js"), "--name", "api", *options]
        subprocess.run(command, env=variables, check=True, capture_output=True, timeout=60)
        (one,) = json.loads(subprocess.check_output(["pm2", "-s", "jlist"], env=variables))
        kept = log.mark(Path(one["pm2_env"][f"pm_{stream}_log_path"]) for stream in ("out", "err"))
        ends = time.monotonic() + 20
        while True:
            found = log.read(log.Position(position.path, 0, 0) for position in kept)
            means = sorted(event.means for event in found.events)
            if len(means) == 5 or time.monotonic() > ends or "-o" in options:
                break
            time.sleep(0.2)
    finally:
        subprocess.run(["pm2", "kill"], env=variables, check=True, capture_output=True, timeout=60)
    if "-o" in options:
        assert found.legible.ok is None and "/dev/null" in found.legible.otherwise
        return
    assert means == ["job", "mail failed", "mail failed", "mail failed", "mail sent"]
    worker = Worker(0, 1, "online", "fork", 0, 1, 1, None, False, kept)
    # Of an error that Node prints itself it leaves out what lies deep in it.
    failed = ["Unauthorized (401)", "Unauthorized; Maximum credits exceeded (401)", "full (550)"]
    assert sorted((one.sent, one.times, one.why) for one in mail.sent([worker])) == [
        *((False, 1, why) for why in failed), (True, 1, ""),
    ]  # fmt: skip
