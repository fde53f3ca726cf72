"""Traces and the diagnosis: read from what the API logs, without its secrets and without the probes' own."""

import json
import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import log
from opslib.api.pm2 import Worker
from opslib.payments import delivery_diagnosis, delivery_trace, webhook_route
from opslib.payments.delivery_cause import NEXT, Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.webhook_route import PROBE
from opslib.runbook import procedure
from tests.sandbox import toolchain
from tests.sandbox.layout import BIN, HERE, NODE_MODULES

ENV = propertypulse.load("sandbox")
NOW = time.time()
FAILED = "❌ Stripe webhook signature verification failed"


def written(tmp_path: Path, *entries: dict[str, Any]) -> list[Trace]:
    """What is read from a log with these entries."""
    file = tmp_path / "app-error-0.log"
    at = datetime.fromtimestamp(NOW, UTC).isoformat()
    file.write_text("no JSON\n" + "".join(json.dumps({"timestamp": at, "pid": 7, **entry}) + "\n" for entry in entries))
    return delivery_trace.read(ENV, [log.Position(file, 0, 0)])


def trace(at: float, why: Cause | None = None, event: str = "", up: str = "") -> Trace:
    """A delivery that ended so."""
    return Trace(at, 1, why, "said", event, up)


def worker(up: int) -> Worker:
    """A worker that started so many seconds ago."""
    return Worker(0, 1, "online", "cluster", 0, up, 1, None, True, [])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"message": FAILED, "error": "something that a later library says"}, Cause.REFUSED),
        ({"message": "❌ POST /api/webhooks/stripe failed: boom", "stack": "TypeError: boom\n at x"}, Cause.APP_ERROR),
    ],
)
def test_a_failure_is_told_by_its_words(tmp_path: Path, entry: dict[str, Any], expected: Cause) -> None:
    (found,) = written(tmp_path, {"level": "error", **entry})
    assert (found.cause, found.pid, round(found.at)) == (expected, 7, round(NOW))
    assert expected is not Cause.APP_ERROR or "at x" in found.said


# Prints what Stripe's library for Node says of each payload, header and secret.
LIBRARY = """
const Stripe = require("stripe");
const stripe = new Stripe("sk_test_none");
const said = JSON.parse(require("node:fs").readFileSync(0, "utf8")).map(([payload, header, secret]) => {
  try {
    stripe.webhooks.constructEvent(payload ?? undefined, header ?? undefined, secret ?? undefined);
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(said));
"""


def says() -> list[tuple[object, object, str | None, Cause, Cause]]:
    """Payload, header and secret; what that is refused for by all that the library says, and by the first line."""
    secret, body = "whsec_right", '{"id": "evt_1"}'
    signed, old = (webhook_route.header(secret, body.encode(), age) for age in (0, webhook_route.STALE))
    return [
        ("", signed, secret, Cause.NO_BODY, Cause.NO_BODY),
        (None, signed, secret, Cause.NO_BODY, Cause.NO_BODY),
        (json.loads(body), signed, secret, Cause.PARSED, Cause.PARSED),
        (json.loads(body), signed, f"{secret} ", Cause.PARSED, Cause.PARSED),
        (body, None, secret, Cause.NO_SIGNATURE, Cause.NO_SIGNATURE),
        (body, "", secret, Cause.NO_SIGNATURE, Cause.NO_SIGNATURE),
        (body, "test", secret, Cause.GARBLED, Cause.GARBLED),
        (body, signed.partition(",")[2], secret, Cause.GARBLED, Cause.GARBLED),
        (body, [signed], secret, Cause.GARBLED, Cause.GARBLED),
        (body, signed.partition(",")[0], secret, Cause.NO_SCHEME, Cause.NO_SCHEME),
        (body, signed.replace("v1=", "v0="), secret, Cause.NO_SCHEME, Cause.NO_SCHEME),
        (body, old, secret, Cause.CLOCK, Cause.CLOCK),
        (body, signed, None, Cause.NO_SECRET, Cause.NO_SECRET),
        (body, signed, "", Cause.WRONG_SECRET, Cause.WRONG_SECRET),
        (body, signed, f"{secret}\n", Cause.SPACED_SECRET, Cause.WRONG_SECRET),
        (body, signed, "whsec_other", Cause.WRONG_SECRET, Cause.WRONG_SECRET),
    ]


def test_all_that_stripe_s_library_says_is_told_apart(tmp_path: Path) -> None:
    toolchain.install()
    table = says()
    node = subprocess.run(
        [str(BIN / "node"), "-e", LIBRARY], input=json.dumps([given[:3] for given in table]), capture_output=True,
        text=True, cwd=HERE, timeout=60,
    )  # fmt: skip
    assert node.returncode == 0, node.stderr
    said = [str(one) for one in json.loads(node.stdout)]
    texts = [text for one in said for text in (one, one.split("\n")[0].strip())]
    found = written(tmp_path, *({"level": "error", "message": FAILED, "error": text} for text in texts))
    assert [(one.cause, one.said) for one in found] == [
        (cause, log.redact(text))
        for cause, text in zip([cause for *_, whole, first in table for cause in (whole, first)], texts, strict=True)
    ]
    source = (NODE_MODULES / "stripe/cjs/Webhooks.js").read_text()
    every = set(re.findall(r"message: '([^']+)'", source)) - {"Options are required"}  # which is said to a test
    assert len(every) > 5 and {text for text in every if not any(one.startswith(text) for one in said)} == set()


def test_what_is_no_event_or_no_delivery_is_left_out_and_secrets_are_not_shown(tmp_path: Path) -> None:
    found = written(
        tmp_path,
        {"level": "error", "message": "❌ GET /api/payments failed: boom"},
        {"level": "info", "message": "API listening"},
        {"level": "info", "message": "done", "event": "evt_1", "type": "a.b", "outcome": "ignored"},
        {"level": "error", "message": "❌ POST /api/webhooks/stripe failed: sk_live_4eC39HqLyjWDarjtT1zdp7dc"},
    )
    assert [(t.event, t.cause) for t in found] == [("evt_1", None), ("", Cause.APP_ERROR)]
    assert "4eC39Hq" not in found[1].said


def test_what_was_refused_between_two_probes_was_a_probe_and_no_event_of_stripes() -> None:
    probes = [trace(10, event=PROBE), trace(11, Cause.WRONG_SECRET), trace(12, event=PROBE)]
    errors = [trace(11.5, Cause.APP_ERROR), trace(13, Cause.WRONG_SECRET), trace(60, event=PROBE)]
    found = sorted([*probes, *errors], key=lambda one: one.at)
    assert [t.at for t in delivery_trace.of_stripe(found, since=0)] == [11.5, 13]
    assert [t.at for t in delivery_trace.of_stripe(found, since=12)] == [13]
    assert delivery_trace.of_stripe([trace(5, Cause.CLOCK), *found], since=0)[0].cause is Cause.CLOCK


def test_the_secret_is_wrong_while_the_last_delivery_says_so_to_workers_that_still_run() -> None:
    now = time.time()  # which the diagnosis reads too, long after this module was loaded
    refused, taken = trace(now - 50, Cause.WRONG_SECRET), trace(now - 40, event="evt_1")
    assert delivery_diagnosis.standing([refused], [worker(100)]) == [Cause.WRONG_SECRET]
    assert delivery_diagnosis.standing([refused, taken], [worker(100)]) == []
    assert delivery_diagnosis.standing([refused], [worker(10)]) == []  # they have been replaced since
    assert delivery_diagnosis.standing([], []) == []
    old = trace(now - delivery_diagnosis.AFTER - 10, Cause.WRONG_SECRET)
    assert delivery_diagnosis.standing([old], [worker(9999)]) == []  # Stripe may sign with another by now
    bare, unsigned = trace(now - 30, Cause.NO_SCHEME), trace(now - 20, Cause.NO_SIGNATURE)
    assert delivery_diagnosis.standing([refused, taken, bare, unsigned], [worker(100)]) == [Cause.NO_SCHEME]


def test_what_anybody_may_have_sent_is_an_event_s_only_at_once() -> None:
    scanned, refused = trace(100, Cause.NO_SIGNATURE), trace(900, Cause.NO_SCHEME)
    why = delivery_diagnosis.judge([], [scanned, refused], lacks=[])
    late = 100 - delivery_diagnosis.AT_ONCE - 1
    assert [why(at, "a.b", True) for at in (99, late, 901)] == [Cause.NO_SIGNATURE, Cause.NO_SCHEME, Cause.NO_TRACE]
    assert delivery_diagnosis.judge([], [scanned], lacks=[])(late, "a.b", True) is Cause.NO_TRACE


def test_an_event_is_laid_to_what_stands_else_to_what_was_logged_after_it() -> None:
    found = [trace(100, Cause.WRONG_SECRET), trace(200, Cause.APP_ERROR)]
    why = delivery_diagnosis.judge([], found, lacks=[])
    assert [why(at, "a.b", True) for at in (99, 150, 201)] == [Cause.WRONG_SECRET, Cause.APP_ERROR, Cause.NO_TRACE]
    assert why(100 - delivery_diagnosis.AFTER - 1, "a.b", True) is Cause.NO_TRACE
    stands = delivery_diagnosis.judge([Cause.PARSED, Cause.OPEN], found, lacks=[])
    assert [stands(at, "a.b", True) for at in (99, 201)] == [Cause.WRONG_SECRET, Cause.NO_TRACE]
    assert stands(100 - delivery_diagnosis.AFTER - 1, "a.b", True) is Cause.PARSED  # the log does not reach back so far
    assert delivery_diagnosis.judge([Cause.PARSED], [], lacks=[])(99, "a.b", True) is Cause.PARSED
    assert delivery_diagnosis.judge([Cause.UNREACHABLE], found, lacks=[])(201, "a.b", True) is Cause.UNREACHABLE
    assert delivery_diagnosis.judge([Cause.NOT_ENABLED], found, lacks=["a.b"])(99, "a.b", False) is Cause.NOT_ENABLED
    assert delivery_diagnosis.judge([Cause.NOT_ENABLED], found, lacks=["c.d"])(99, "a.b", False) is Cause.NO_TRACE
    assert delivery_diagnosis.judge([Cause.DISABLED], found, lacks=[])(99, "a.b", False) is Cause.DISABLED
    assert delivery_diagnosis.judge([], [trace(700, Cause.CLOCK)], lacks=[], skew=600)(99, "a.b", True) is Cause.CLOCK


def test_every_cause_has_a_next_step_and_errors_are_counted() -> None:
    assert set(NEXT) == set(Cause)
    found = [trace(1, Cause.APP_ERROR), trace(2, Cause.APP_ERROR), trace(3, Cause.CLOCK)]
    assert delivery_diagnosis.errors(found) == [{"times": 2, "error": "said"}]
    assert all(bool(mend.procedure) != bool(mend.do) for mend in NEXT.values())
    assert {mend.procedure for mend in NEXT.values()} - {""} <= {*procedure.names()}


def test_what_was_found_wrong_says_how_to_go_on_and_what_was_left_out() -> None:
    stands = delivery_diagnosis.findings([Cause.CLOCK, Cause.DISABLED], "set this machine's clock")
    assert [(one.what, one.command("live")) for one in stands] == [
        ("clock off: this stands now", "set this machine's clock; then restart_api."),
        ("endpoint disabled: this stands now", "runbook run enable_webhook_endpoint -e live"),
    ]
    counts = {Cause.NO_TRACE.value: 7, Cause.WRONG_SECRET.value: 1, Cause.TAKEN.value: 3}
    found = delivery_diagnosis.missing(counts, young=1, minutes=5)
    assert [(one.what, one.command("live")) for one in found] == [
        (
            "8 events of Stripe's that the API has not",
            "runbook run replay_stripe_events -e live -p retrying_minutes 5",
        ),
        (
            "1 undelivered event younger than 5 minutes, not looked at",
            "runbook run triage_stripe_webhooks -e live -p retrying_minutes 0",
        ),
    ]
    assert delivery_diagnosis.missing({Cause.TAKEN.value: 3}, young=0, minutes=5) == []
