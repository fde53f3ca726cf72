"""Drills of triage, of enabling the endpoint and of replays: every cause by its name; each event once."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
import urllib3

from opslib import propertypulse
from opslib.database import postgres
from opslib.deployment import env_file
from tests import sandbox
from tests.drills import stripe_agreement as stripe
from tests.drills.webhooks import Ran, replay, run, triage, words
from tests.sandbox import backlog
from tests.sandbox.layout import API, PM2_HOME, STRIPE, url

pytestmark = [pytest.mark.usefixtures("fresh"), pytest.mark.long]

NAMES = {
    "webhook-error": "error in the handler",
    "wrong-webhook-secret": "wrong secret",
    "parsed-body": "parsed instead of raw body",
    "clock-off": "clock off",
    "webhook-backlog": "no trace at the API",
    "endpoint-disabled": "endpoint disabled",
}
"""The faults and what triage calls them; in pairs they are broken in this order: refused signatures hide later ones."""


@pytest.fixture(scope="module")
def fresh(request: pytest.FixtureRequest) -> None:
    """The stand-in, started anew: events that the drills of other files have lost would be found too."""
    request.getfixturevalue("sandbox")
    sandbox.stop()
    sandbox.start()


@pytest.fixture(autouse=True)
def _clean(fresh: None) -> Iterator[None]:
    """Nothing broken and nothing piled up, before and after."""
    for after in (False, True):
        stripe.dashboard("faults")
        backlog.clear()  # first, or it would all be delivered
        sandbox.mend()
        for log in (PM2_HOME / "logs").glob("*.log"):
            os.truncate(log, 0)
        if not after:
            yield


def breaks(*faults: str) -> None:
    """Break these, with two events that each refuses or keeps from being sent."""
    for number, fault in enumerate(faults):
        if fault != "webhook-backlog" or len(faults) == 1:  # which uses up pending payments
            sandbox.break_(fault)
        if fault != "webhook-backlog" or len(faults) > 1:
            attempts = 0 if fault == "webhook-backlog" else 1
            backlog.pile_up(2, refused=2, attempts=attempts, seconds=0, name=f"{backlog.PREFIX}_{number}")
        time.sleep(2.5)  # events are stamped to the second, and half a second is forgiven


def outcomes() -> Counter[str]:
    """How often the workers have logged that an event of the backlog had an effect, or was noted without."""
    found: Counter[str] = Counter()
    for file in (PM2_HOME / "logs").glob("*out*.log"):
        for line in file.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if str(entry.get("event", "")).startswith("evt_backlog") and entry["outcome"] != "duplicate":
                found[entry["event"]] += 1
    return found


@pytest.mark.parametrize("fault", NAMES)
def test_names_a_fault_and_once_it_is_mended_replays_what_it_kept_out(fault: str) -> None:
    breaks(fault)
    seen = triage()
    assert seen.outcome == "planned"
    assert any(NAMES[fault] in what or "that the API has not" in what for what in seen.found), seen.found
    assert seen.named == {NAMES[fault]}
    assert sum(int(row["events"]) for row in seen.rows("Causes")) == (8 if fault == "webhook-backlog" else 2)
    assert ("webhooks.js:" in seen.text) == (fault == "webhook-error")  # the stack
    if seen.standing & {"parsed instead of raw body", "clock off", "endpoint disabled"}:
        assert replay().outcome == "failed"
    if fault == "endpoint-disabled":
        enabled = run("enable_webhook_endpoint", apply=True)
        assert enabled.outcome == "applied", enabled.end
    elif fault != "webhook-backlog":
        sandbox.mend(fault)
    mended = replay()
    assert mended.outcome == "applied", mended.end
    assert set(backlog.states().values()) <= {"PAID"}
    assert stripe.untaken(0) == []
    healthy = triage()
    assert NAMES["webhook-backlog"] not in healthy.named
    assert not any("that the API has not" in what for what in healthy.found), healthy.found


@pytest.mark.parametrize("pair", list(combinations(NAMES, 2)), ids=" and ".join)
def test_names_both_of_two_faults(pair: tuple[str, str]) -> None:
    breaks(*pair)
    assert triage().named >= {NAMES[fault] for fault in pair}


def test_replays_each_event_once_lists_what_is_refused_and_changes_nothing_a_second_time() -> None:
    sandbox.break_("webhook-error")
    ends = backlog.pile_up(400, refused=5)
    lost = len(backlog.noted())
    stopped = replay()
    assert stopped.outcome == "undone"  # the refused ones are the oldest: nothing was taken
    assert "Cannot read properties of undefined" in stopped.end
    replayed = replay("-p", "skip_refused", "5")
    assert replayed.outcome == "applied", replayed.end
    refused = replayed.rows("Refused and left out")
    assert len(refused) == 5
    assert all("reading 'rate'" in row["reason"] and row["event"].startswith("evt_backlog") for row in refused)
    assert backlog.states() == ends
    counts = outcomes()
    assert set(counts.values()) == {1}
    assert len(counts) == 400 - 5 - lost
    again = replay("-p", "skip_refused", "5")
    assert again.outcome == "applied"
    assert again.rows("The API has every event")[0]["sent again and taken"] == "0"
    assert (backlog.states(), outcomes()) == (ends, counts)
    sandbox.mend("webhook-error")
    assert replay().outcome == "applied"
    assert set(backlog.states().values()) == {"PAID", "REFUNDED"}
    assert len(backlog.noted()) == 400


def test_a_refusal_in_the_middle_needs_a_person_and_says_what_stays_taken() -> None:
    backlog.pile_up(3, seconds=300)
    time.sleep(1.1)
    sandbox.break_("webhook-error")
    backlog.pile_up(1, refused=1, seconds=0, name=f"{backlog.PREFIX}_later")
    time.sleep(1.1)
    stopped = replay()
    assert stopped.outcome == "needs-person"
    assert "3 events were sent again and taken, and stay so" in stopped.end
    assert "evt_backlog_later" in stopped.text


def test_replays_from_here_signed_with_the_secret_in_force() -> None:
    ends = backlog.pile_up(20)
    local = replay("-p", "sent_by", "here")
    assert local.outcome == "applied", local.end
    assert backlog.states() == ends
    assert len(stripe.untaken(0)) == 20  # Stripe does not know
    assert {row["cause"] for row in triage().rows("Causes") if row["events"] != "0"} == {
        "taken here, not known to Stripe"
    }


@pytest.mark.parametrize("whom", ["runner", "kernel"])
def test_killed_in_the_middle_and_run_again_gives_each_event_once(whom: str) -> None:
    ends = backlog.pile_up(300)
    lost = len(backlog.noted())
    process = subprocess.Popen(words("replay_stripe_events", "-p", "retrying_minutes", "0", apply=True))
    deadline = time.monotonic() + 60
    while len(backlog.noted()) < lost + 40:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kernels = psutil.Process(process.pid).children(recursive=True)
    for one in [psutil.Process(process.pid)] if whom == "runner" else kernels:
        one.send_signal(signal.SIGKILL)
    process.wait(60)
    psutil.wait_procs(kernels, 20)
    assert len(backlog.noted()) < 300
    again = replay()
    assert again.outcome == "applied", again.end
    assert backlog.states() == ends
    assert len(backlog.noted()) == 300
    assert set(outcomes().values()) == {1}


@pytest.mark.parametrize(
    ("fault", "outcome", "says"),
    [
        ({"status": 401}, "failed", "the key is wrong or expired"),
        ({"status": 403}, "failed", "not permitted to this key"),
        ({"status": 429}, "failed", "Stripe limits the rate"),
        ({"status": 429, "retry_after": 1, "times": 2}, "applied", ""),
        ({"status": 429, "retry_after": 900}, "failed", "asks for 900 s more"),
        ({"status": 500}, "failed", "HTTP 500"),
        ({"status": 500, "times": 1}, "applied", ""),
        ({"status": 200, "garbage": "<html>"}, "failed", "not known"),
        ({"status": 0}, "failed", "no answer from Stripe"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/evt_backlog"])
def test_stripe_answering_badly_is_said_and_nothing_is_half_done(
    fault: dict[str, object], outcome: str, says: str, path: str
) -> None:
    ends = backlog.pile_up(3)
    if path != "/v1/events":
        outcome = {"failed": "undone"}.get(outcome, outcome)  # what was to be sent was not
        says = says.replace("not known", "was not sent again")
    stripe.dashboard("faults", path=path, **{"times": 99, **fault})
    ran = replay()
    assert ran.outcome == outcome, ran.end
    assert says in ran.end
    stripe.dashboard("faults")
    if outcome != "applied":
        assert set(backlog.states().values()) == {"PENDING"}
        assert replay().outcome == "applied"
    assert backlog.states() == ends


def test_ids_with_characters_that_mean_something_elsewhere_are_harmless(tmp_path: Path) -> None:
    evil = [
        "'; DROP TABLE payments; --",
        f"$(touch {tmp_path}/shell)`touch {tmp_path}/tick`",
        "a/../b?c=d&e=%2F#f",
        "\r\nX-Evil: 1",
        "| `x` <b>",
    ]
    made = [
        {
            "id": f"evt_backlog_{text}",
            "object": "event",
            "type": "payment_intent.succeeded",
            "created": int(time.time()) - 60,
            "data": {
                "object": {"id": f"pi_backlog_{text}", "object": "payment_intent", "status": "succeeded", "amount": 1}
            },
        }
        for text in evil
    ]
    stripe.dashboard("events", events=made)
    ran = replay()
    assert ran.outcome == "applied", ran.end
    assert backlog.noted() == {event["id"] for event in made}
    assert list(tmp_path.iterdir()) == []
    address = env_file.read(propertypulse.load("sandbox").api.env_file)["DATABASE_URL"]
    with postgres.connect(address) as database:
        assert database.execute("SELECT count(*) AS n FROM payments").fetchone() == {"n": 300}


def test_an_endpoint_that_leads_elsewhere_or_lacks_a_type_is_named_and_enabled() -> None:
    key = stripe.held("STRIPE_SECRET_KEY")
    address = f"{url(STRIPE)}/v1/webhook_endpoints/{stripe.ENDPOINT}"
    change(address, key, **{"enabled_events[0]": "payment_intent.succeeded"})
    try:
        assert triage().standing == {"endpoint lacks the type"}
        assert run("enable_webhook_endpoint", apply=True).outcome == "applied"
        assert triage().standing == set()
        change(address, key, url=f"{url(API)}/nowhere")
        lost = triage()
        assert lost.outcome == "failed"
        assert "Correct the endpoint's URL" in lost.end
    finally:
        change(address, key, url=f"{url(API)}/api/webhooks/stripe", **{"enabled_events[0]": "*"})


def change(address: str, key: str, **fields: str) -> None:
    """Change the endpoint as the Dashboard does."""
    got = urllib3.request("POST", address, body=urlencode(fields), headers={"Authorization": f"Bearer {key}"})
    assert got.status == 200, got.data


def test_memory_does_not_grow_with_the_events() -> None:
    peaks = [peak(events) for events in (100, 2000)]
    assert peaks[1] < peaks[0] * 1.25, peaks


def peak(events: int) -> int:
    """The most memory that a triage of so many events takes, in bytes."""
    backlog.clear()
    backlog.pile_up(events)
    highest, command = 0, words("triage_stripe_webhooks", "-p", "retrying_minutes", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for one in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    highest = max(highest, one.memory_info().rss)
            time.sleep(0.05)
        assert process.stdout is not None
        assert Ran(process.stdout.read().splitlines()[-1]).outcome == "planned"
    return highest
