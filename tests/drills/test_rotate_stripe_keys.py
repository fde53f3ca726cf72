"""Drills of `rotate_stripe_keys` on the stand-in: under traffic and events, refused, undone, and killed half way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from opslib import env_file, environment, secret
from tests import sandbox
from tests.drills import stripe_agreement as stripe
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import LOGS, PM2_HOME, STATE

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

QUICK = ("-p", "settle_seconds", "2", "-p", "wait_seconds", "6")


class Payments:
    """Payment intents made through the API at a steady rate, each cancelled, which is an event; counts what failed."""

    def __init__(self, every: float = 0.2) -> None:
        self.made: list[str] = []
        self.failed: list[object] = []
        self._every, self._token, self._key = every, stripe.login(), stripe.create_key()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _make(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                status, answer = stripe.intent(self._token)
            except Exception as error:
                self.failed.append(repr(error))
                continue
            if status == 201:
                self.made.append(answer["payment"]["providerIntentId"])
                stripe.cancel(self._key, self.made[-1])
            else:
                self.failed.append((status, answer))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """No fault, and no key that waits to be retired, before and after."""
    kept = {f"STRIPE_SECRET_KEY_{what}": None for what in ("PENDING", "PREVIOUS", "SINCE")}
    for after in (False, True):
        stripe.dashboard("faults")
        file = secret.Staged(environment.load("sandbox"), "STRIPE_SECRET_KEY").file
        if file.exists() and (made := env_file.edit(file, kept)):
            env_file.drop(made)
        if not after:
            yield


def command(stage: str, *arguments: str, apply: bool = True) -> list[str]:
    """The words of a run."""
    words = [sys.executable, "-m", "opslib.cli", "run", "rotate_stripe_keys", "-p", "stage", stage, *QUICK]
    return [*words, *arguments, *(["--apply"] if apply else [])]


def rotate(stage: str, *arguments: str, apply: bool = True) -> tuple[str, dict[str, Any], str]:
    """Run a stage; give its outcome, its record, and what the terminal showed."""
    done = subprocess.run(command(stage, *arguments, apply=apply), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    made = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return made["metadata"]["opslib"]["outcome"], made, done.stdout


def evidence(made: dict[str, Any]) -> list[dict[str, str]]:
    """All rows of evidence in a record."""
    outputs = [output for cell in made["cells"] for output in cell.get("outputs", [])]
    return [row for output in outputs for row in output["metadata"].get("opslib", {}).get("evidence", [])]


def dotenv() -> bytes:
    """The bytes of the `.env`."""
    return environment.load("sandbox").api.env_file.read_bytes()


def events_of(intents: list[str]) -> set[str]:
    """The intents for which the API has noted an event."""
    _, listed = stripe.ask(
        "GET",
        f"{stripe.url(stripe.STRIPE)}/v1/events?limit=100&type=payment_intent.canceled",
        token=stripe.held("STRIPE_SECRET_KEY"),
    )
    found = {event["id"]: event["data"]["object"]["id"] for event in listed["data"]}
    while listed["has_more"]:
        address = f"{stripe.url(stripe.STRIPE)}/v1/events?limit=100&type=payment_intent.canceled"
        last = listed["data"][-1]["id"]
        _, listed = stripe.ask("GET", f"{address}&starting_after={last}", token=stripe.held("STRIPE_SECRET_KEY"))
        found |= {event["id"]: event["data"]["object"]["id"] for event in listed["data"]}
    with postgres.connect_admin(Credentials.load()) as connection:
        noted = {row[0] for row in connection.execute("SELECT id FROM webhook_events").fetchall()}
    return {intent for event, intent in found.items() if event in noted} & set(intents)


def leaks(values: list[str], *texts: str) -> list[str]:
    """The places outside the `.env` and the stand-in's own store in which one of these values stands."""
    found = [f"text {n}" for n, text in enumerate(texts) if any(value in text for value in values)]
    places = [*LOGS.rglob("*"), *PM2_HOME.rglob("*"), *(STATE / "logs").rglob("*"), *Path("records").rglob("*")]
    for place in places:
        if place.is_file() and any(value.encode() in place.read_bytes() for value in values):
            found.append(str(place))
    return found


class Watcher:
    """Looks for values in the command lines of all processes, until stopped."""

    def __init__(self, values: list[str]) -> None:
        self.seen: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(values,), daemon=True)
        self._thread.start()

    def stop(self) -> set[str]:
        self._stopped.set()
        self._thread.join()
        return self.seen

    def _look(self, values: list[str]) -> None:
        while not self._stopped.wait(0.1):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = file.read_text(errors="replace")
                except OSError:
                    continue
                if any(value in text for value in values):
                    self.seen.add(text[:60])


def test_all_four_stages_cost_no_request_and_no_event(tmp_path: Path) -> None:
    old_key, old_secret, new_key = (
        stripe.held("STRIPE_SECRET_KEY"),
        stripe.held("STRIPE_WEBHOOK_SECRET"),
        stripe.create_key(),
    )
    shown = []
    watcher = Watcher([old_key, old_secret, new_key])
    with sandbox.Traffic(rate=100) as traffic, Payments() as payments:
        outcome, _, said = rotate("key", "-p", "new_secret", stripe.put(tmp_path, new_key))
        shown.append(said)
        assert outcome == "applied", said
        assert stripe.held("STRIPE_SECRET_KEY") == new_key
        outcome, _, said = rotate("retire-key", "-p", "old_key_last_used", "leaked")
        assert outcome == "failed" and "✗ The old key is refused" in said  # it is not expired yet
        stripe.dashboard("keys/expire", secret=old_key)
        outcome, _, said = rotate("retire-key", "-p", "old_key_last_used", "leaked")
        shown.append(said)
        assert outcome == "applied", said
        new_secret = stripe.roll()
        outcome, _, said = rotate("webhook", "-p", "new_secret", stripe.put(tmp_path, new_secret))
        shown.append(said)
        assert outcome == "applied", said
        assert stripe.problems() == []
        outcome, made, said = rotate("retire-webhook")
        shown.append(said)
        assert outcome == "applied", said
        assert {"signed with": "the one before", "answer": "refused ×8"} in evidence(made)
    assert traffic.result.failed == 0, traffic.result
    assert traffic.result.asked > 1500
    assert payments.failed == [] and len(payments.made) > 50
    assert stripe.problems(old_key, old_secret) == []
    assert events_of(payments.made) == set(payments.made)
    values = [old_key, new_key, old_secret, new_secret]
    assert leaks(values, *shown) == []
    assert watcher.stop() == set()
    folder = environment.load("sandbox").api.env_file.resolve().parent
    assert [path for path in folder.iterdir() if path.name.endswith(".bak")] == []
    assert not [value for value in values if value in (folder / ".env.staged").read_text()]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("sk_live_" + "a1" * 20, "of live mode"),
        ("sk_test_" + "a1" * 20, "the key is wrong or expired"),
    ],
    ids=["live", "unknown"],
)
def test_a_wrong_key_changes_nothing(value: str, said: str, tmp_path: Path) -> None:
    before = dotenv()
    given = stripe.put(tmp_path, value or stripe.held("STRIPE_SECRET_KEY"))
    outcome, made, shown = rotate("key", "-p", "new_secret", given)
    assert outcome == "failed"
    assert said in json.dumps(made) + shown
    assert dotenv() == before


def test_nothing_begins_while_stripe_does_not_answer() -> None:
    before = dotenv()
    stripe.dashboard("faults", status=500, times=99)
    outcome, _, shown = rotate("key")
    assert outcome == "failed" and "✗ The key is of this account and mode" in shown
    assert dotenv() == before


def test_an_answer_that_fails_after_the_switch_undoes_it(tmp_path: Path) -> None:
    before = dotenv()
    words = command("key", "-p", "new_secret", stripe.put(tmp_path, stripe.create_key()))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        await_line(process, "Give the workers")
        stripe.dashboard("faults", status=500, times=99, path="/v1/balance")
        out, _ = process.communicate(timeout=120)
    stripe.dashboard("faults")
    assert process.returncode == 2 and "✓ Undo: Give the workers" in out, out
    assert dotenv() == before
    assert stripe.problems() == []


def test_a_release_that_does_not_start_is_undone_byte_for_byte(tmp_path: Path) -> None:
    before, key = dotenv(), stripe.create_key()
    sandbox.break_("bad-release")
    try:
        with sandbox.Traffic(rate=100) as traffic, Payments() as payments:
            outcome, _, shown = rotate("key", "-p", "new_secret", stripe.put(tmp_path, key))
    finally:
        sandbox.mend("bad-release")
    assert outcome == "undone", shown
    assert dotenv() == before
    assert traffic.result.failed == 0, traffic.result
    assert payments.failed == []
    assert stripe.problems() == []


def test_a_wrong_webhook_secret_is_undone_and_loses_no_event(tmp_path: Path) -> None:
    right, wrong = stripe.roll(), "whsec_" + "wrong" * 6
    outcome, _, shown = rotate("webhook", "-p", "new_secret", stripe.put(tmp_path, wrong))
    assert outcome == "applied", shown  # the old one still signs, and is still taken
    before = dotenv()
    with Payments() as payments:
        outcome, _, shown = rotate("retire-webhook")
    assert outcome == "undone", shown
    assert "✗ Every event since the switch began was taken" in shown
    assert dotenv() == before
    assert payments.failed == []
    assert stripe.untaken(within=40) == []
    assert events_of(payments.made) == set(payments.made)
    outcome, _, shown = rotate("webhook", "-p", "new_secret", stripe.put(tmp_path, right), apply=False)
    assert outcome == "planned", shown  # the right one may take its place
    assert stripe.problems() == []


def test_events_that_were_not_delivered_meanwhile_are(tmp_path: Path) -> None:
    key = stripe.create_key()
    process = subprocess.Popen(
        command("key", "-p", "new_secret", stripe.put(tmp_path, key)), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with Payments() as payments:
        await_line(process, "Give the workers")
        stripe.dashboard("deliveries", enabled=False)
        time.sleep(2)
        stripe.dashboard("deliveries", enabled=True)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert stripe.untaken() == []
    assert events_of(payments.made) == set(payments.made)


def await_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Wait until the run shows a step of this text."""
    assert process.stdout
    assert any(text in line and "under way" in line for line in iter(process.stdout.readline, "")), text


# A sample of the crash matrix: in which change, how many seconds after it began, and who dies.
@pytest.mark.parametrize(
    ("stage", "change", "after", "victim"),
    [
        ("key", "Give the workers", 1.5, "runner"),
        ("webhook", "Give the workers", 4.0, "kernel"),
    ],
)
def test_killed_it_is_run_again(stage: str, change: str, after: float, victim: str, tmp_path: Path) -> None:
    given = ("-p", "new_secret", stripe.put(tmp_path, stripe.create_key()))
    if stage == "webhook":
        given = (
            "-p",
            "new_secret",
            stripe.put(tmp_path, stripe.roll(overlap=0)),
        )  # at once, so that events are refused
    with sandbox.Traffic(rate=100) as traffic, Payments() as payments:
        with subprocess.Popen(command(stage, *given), stdout=subprocess.PIPE, text=True) as process:
            await_line(process, change)
            time.sleep(after)
            kernels = psutil.Process(process.pid).children(recursive=True) if victim == "kernel" else []
            for one in [p for p in kernels if "ipykernel" in " ".join(p.cmdline())] or [process]:
                os.kill(one.pid, signal.SIGKILL)
            process.communicate(timeout=120)
        outcome, _, shown = rotate(stage, *given)
    assert outcome == "applied", shown
    assert stripe.problems() == []
    assert traffic.result.failed == 0, traffic.result
    assert payments.failed == []
    assert events_of(payments.made) == set(payments.made)
