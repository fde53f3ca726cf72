"""Traces of deliveries in a log that nobody has prepared: plain lines, with a time or without."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.api.log import Position
from opslib.api.settings import Log
from opslib.payments import delivery_diagnosis, delivery_trace
from opslib.payments.delivery_cause import Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.webhook_route import ASKS

ENV = propertypulse.load("plain")
AT = datetime(2026, 11, 28, 10, tzinfo=UTC)
SAID = "❌ Webhook signature verification failed: "
WRONG = f"{SAID}No signatures found matching the expected signature for payload. Are you passing the raw body?"
OLD = f"{SAID}Timestamp outside the tolerance zone"
THROWN = "❌ Stripe webhook error: TypeError: no 'card' of undefined\n    at markPaid (x.js:2)"
OTHERS = """\
🔔 Processing due reminders...
❌ Authentication error: JsonWebTokenError: invalid signature
    at verify (node_modules/jsonwebtoken/verify.js:171:19)
📧 Email send failed: Error: the signature of this mail is none
❌ No token provided
"""


def stamped(seconds: float, line: str) -> str:
    """A line as PM2 writes it with --time."""
    at = (AT + timedelta(seconds=seconds)).isoformat()
    return "".join(f"{at}: {one}\n" for one in line.splitlines())


def logged(folder: Path, text: str) -> list[Position]:
    file = folder / "api-error.log"
    file.write_text(text)
    return [Position(file, 0, 0)]


@pytest.mark.parametrize("timed", [True, False])
def test_plain_lines_tell_what_became_of_a_delivery(tmp_path: Path, timed: bool) -> None:
    lines = [WRONG, OTHERS, THROWN, "✅ Payment marked as paid: c1", "⚠️ Payment not found for intent: pi_1"]
    text = "".join(stamped(n, line) if timed else f"{line}\n" for n, line in enumerate(lines))
    found = delivery_trace.read(ENV, logged(tmp_path, text))
    assert [one.cause for one in found] == [Cause.WRONG_SECRET, Cause.APP_ERROR, None, None]
    assert "no 'card'" in found[1].said and "markPaid" in found[1].said
    assert [one.object for one in found[2:]] == ["c1", "pi_1"]
    assert [one.at for one in found] == [AT.timestamp() + n if timed else 0 for n in (0, 2, 3, 4)]


def test_a_line_that_the_environment_words_otherwise_is_known_and_files_of_the_api_s_own_are_read(
    tmp_path: Path,
) -> None:
    (own,) = logged(tmp_path, "hook: BAD SIG (expected scheme)\n")
    assert delivery_trace.read(ENV, [own]) == [] and not delivery_trace.legible(ENV, [own])
    words = Log.model_validate({"lines": {"signature refused": r"BAD SIG (?P<error>.*)"}, "files": [own.path]})
    env = ENV.model_copy(update={"log": words})
    (one,) = delivery_trace.read(env, delivery_trace.beginnings(env, []))
    assert (one.cause, one.said) == (Cause.REFUSED, "(expected scheme)") and delivery_trace.legible(env, [own])
    assert delivery_trace.read(env, delivery_trace.mark(env, [])) == []


def test_logs_that_nobody_can_read_are_said_so_and_never_to_be_without_errors(tmp_path: Path) -> None:
    told = delivery_trace.legible(ENV, logged(tmp_path, "something else\nand more\n"))
    (one,) = delivery_diagnosis.unread(told)
    assert "cannot be read: none of 2 entries is known" in one.do
    assert "cannot be read" in str(delivery_diagnosis.said([], told))
    gone = delivery_trace.legible(ENV, [Position(Path("/dev/null"), 0, 0)])
    assert "/dev/null" in delivery_diagnosis.unread(gone)[0].do
    assert delivery_trace.legible(ENV, logged(tmp_path, ""))
    well = delivery_trace.legible(ENV, logged(tmp_path, OTHERS))
    assert delivery_diagnosis.unread(well) == [] and "no error" in delivery_diagnosis.said([], well)


def test_probes_that_the_log_does_not_name_are_no_deliveries_of_stripe_s(tmp_path: Path) -> None:
    probes = [stamped(100 + n / 100, line) for n, line in enumerate([WRONG] * ASKS + [OLD] * ASKS + [THROWN])]
    real = [stamped(at, WRONG) for at in (60, 150)]
    found = delivery_trace.read(ENV, logged(tmp_path, "".join([real[0], *probes, real[1]])))
    left = delivery_trace.of_stripe(found, since=0)
    assert [(one.at - AT.timestamp(), one.cause) for one in left if one.cause is not Cause.APP_ERROR] == [
        (60, Cause.WRONG_SECRET),
        (150, Cause.WRONG_SECRET),
    ]
    assert len(left) == 3


def test_a_failure_without_a_time_is_about_no_event_that_is_known() -> None:
    untimed = [Trace(0, 0, Cause.APP_ERROR, "TypeError")]
    assert delivery_trace.of_stripe(untimed, since=1000) == untimed
    assert delivery_diagnosis.judge([], untimed, lacks=[])(1000, "a.b", True) is Cause.UNTOLD
    assert delivery_diagnosis.judge([], [], lacks=[])(1000, "a.b", True) is Cause.NO_TRACE
    assert delivery_diagnosis.judge([], [], lacks=[], told=False)(1000, "a.b", True) is Cause.UNTOLD
    assert delivery_diagnosis.table({Cause.UNTOLD: 1}, [], untimed)[0]["last"] is None
