"""Drills of the rotations of Stripe's key and webhook secret: under traffic and events, undone, and killed half way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib import propertypulse
from opslib.deployment import env_file, staged_secret
from opslib.runbook import record
from tests import leaks, sandbox
from tests.drills import stripe_agreement as stripe
from tests.sandbox.layout import LOGS, PM2_HOME, STATE

pytestmark = pytest.mark.usefixtures("sandbox")

KEY, RETIRE_KEY = "rotate_stripe_key", "retire_stripe_key"
SECRET, RETIRE_SECRET = "rotate_webhook_secret", "retire_webhook_secret"
LEAKED = ("-p", "old_key_last_used", "leaked")


@pytest.fixture(scope="module", autouse=True)
def _first_key(sandbox: None) -> Iterator[None]:
    """Other tests ask Stripe with the key that the stand-in was started with."""
    yield
    stripe.first()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """No fault, and no key that waits to be retired, before and after."""
    kept = {f"STRIPE_SECRET_KEY_{what}": None for what in ("PENDING", "PREVIOUS", "SINCE")}
    for after in (False, True):
        stripe.dashboard("faults")
        file = staged_secret.Staged(propertypulse.load("sandbox"), "STRIPE_SECRET_KEY").file
        if file.exists() and (made := env_file.edit(file, kept)):
            env_file.drop(made)
        if not after:
            yield


def command(name: str, *arguments: str, apply: bool = True) -> list[str]:
    """The words of a run."""
    quick = ["-p", "wait_seconds", "6", *([] if name == RETIRE_KEY else ["-p", "settle_seconds", "2"])]
    words = [sys.executable, "-m", "opslib.runbook.cli", "run", name, *quick]
    return [*words, *arguments, *(["--apply"] if apply else [])]


def rotate(name: str, *arguments: str, apply: bool = True) -> tuple[str, dict[str, Any], str]:
    """Run a procedure; give its outcome, its record, and what the terminal showed."""
    done = subprocess.run(command(name, *arguments, apply=apply), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    made = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return made["metadata"]["opslib"]["outcome"], made, done.stdout


def evidence(made: dict[str, Any]) -> list[dict[str, str]]:
    """All rows of evidence in a record."""
    outputs = [output for cell in made["cells"] for output in cell.get("outputs", [])]
    return [row for output in outputs for row in output["metadata"].get("opslib", {}).get("evidence", [])]


def dotenv() -> bytes:
    """The bytes of the `.env`."""
    return propertypulse.load("sandbox").api.env_file.read_bytes()


def leaked(values: list[str], *texts: str) -> list[str]:
    """Say where one of these values stands: in the API's logs, PM2's home, the stand-in's logs, records or a text."""
    secrets = {f"secret {n}": value for n, value in enumerate(values)}
    found = leaks.found(secrets, [LOGS, PM2_HOME, STATE / "logs", record.folder()])
    return found + leaks.shown(secrets, {f"text {n}": text for n, text in enumerate(texts)})


@pytest.mark.long
def test_all_four_cost_no_request_and_no_event(tmp_path: Path) -> None:
    old_key, old_secret, new_key = (
        stripe.held("STRIPE_SECRET_KEY"),
        stripe.held("STRIPE_WEBHOOK_SECRET"),
        stripe.create_key(),
    )
    shown = []
    with leaks.command_lines() as lines, sandbox.Traffic(rate=50, writes=True) as traffic:
        outcome, _, said = rotate(KEY, "-p", "new_key", stripe.put(tmp_path, new_key))
        shown.append(said)
        assert outcome == "applied", said
        assert stripe.held("STRIPE_SECRET_KEY") == new_key
        outcome, _, said = rotate(RETIRE_KEY, *LEAKED)
        assert outcome == "failed" and "✗ The old key is refused" in said  # it is not expired yet
        stripe.dashboard("keys/expire", secret=old_key)
        outcome, _, said = rotate(RETIRE_KEY, *LEAKED)
        shown.append(said)
        assert outcome == "applied", said
        new_secret = stripe.roll()
        outcome, _, said = rotate(SECRET, "-p", "new_secret", stripe.put(tmp_path, new_secret))
        shown.append(said)
        assert outcome == "applied", said
        assert stripe.problems() == []
        outcome, made, said = rotate(RETIRE_SECRET)
        shown.append(said)
        assert outcome == "applied", said
        old = {"signature": "the old one", "expected": "refused", "taken": "0", "refused": "8", "instead": ""}
        assert old in evidence(made)
    assert traffic.result.asked > 300
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert stripe.problems(old_key, old_secret) == []
    values = [old_key, new_key, old_secret, new_secret]
    assert leaked(values, *shown, *lines) == []
    folder = propertypulse.load("sandbox").api.env_file.resolve().parent
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
    outcome, made, shown = rotate(KEY, "-p", "new_key", given)
    assert outcome == "failed"
    assert said in json.dumps(made) + shown
    assert dotenv() == before


def test_nothing_begins_while_stripe_does_not_answer() -> None:
    before = dotenv()
    stripe.dashboard("faults", status=500, times=99)
    outcome, _, shown = rotate(KEY)
    assert outcome == "failed" and "The new key is of this account and mode" in shown
    assert dotenv() == before


@pytest.mark.long
def test_an_answer_that_fails_after_the_switch_undoes_it(tmp_path: Path) -> None:
    before = dotenv()
    words = command(KEY, "-p", "new_key", stripe.put(tmp_path, stripe.create_key()))
    with sandbox.Traffic(rate=50, writes=True) as traffic:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            await_line(process, "Give the workers")
            stripe.dashboard("faults", status=500, times=99, path="/v1/balance")
            out, _ = process.communicate(timeout=120)
        stripe.dashboard("faults")
    assert process.returncode == 2 and "✓ Undo: Give the workers" in out, out
    assert dotenv() == before
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert stripe.problems() == []


@pytest.mark.long
def test_a_wrong_webhook_secret_is_undone_and_loses_no_event(tmp_path: Path) -> None:
    right, wrong = stripe.roll(), "whsec_" + "wrong" * 6
    outcome, _, shown = rotate(SECRET, "-p", "new_secret", stripe.put(tmp_path, wrong))
    assert outcome == "applied", shown  # the old one still signs, and is still taken
    before = dotenv()
    with sandbox.Traffic(rate=50, writes=True) as traffic:
        outcome, _, shown = rotate(RETIRE_SECRET)
        stripe.dashboard("deliveries/retry")  # Stripe's own next attempt, for which one would wait for hours
    assert outcome == "undone", shown
    assert "✗ Every event since the switch began was taken" in shown
    assert dotenv() == before
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert stripe.untaken() == []
    outcome, _, shown = rotate(SECRET, "-p", "new_secret", stripe.put(tmp_path, right), apply=False)
    assert outcome == "planned", shown  # the right one may take its place
    assert stripe.problems() == []


def test_events_that_were_not_delivered_meanwhile_are(tmp_path: Path) -> None:
    key = stripe.create_key()
    process = subprocess.Popen(
        command(KEY, "-p", "new_key", stripe.put(tmp_path, key)), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with sandbox.Traffic(rate=50, writes=True) as traffic:
        await_line(process, "Give the workers")
        stripe.dashboard("deliveries", enabled=False)
        time.sleep(2)
        stripe.dashboard("deliveries", enabled=True)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert stripe.untaken() == []
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result


def await_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Wait until the run shows a step of this text."""
    assert process.stdout
    assert any(text in line and "under way" in line for line in iter(process.stdout.readline, "")), text


# A sample of the crash matrix: in which change, how many seconds after it began, and who dies.
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "change", "after", "victim"),
    [
        (KEY, "Give the workers", 1.5, "runner"),
        (SECRET, "Give the workers", 4.0, "kernel"),
    ],
)
def test_killed_it_is_run_again(name: str, change: str, after: float, victim: str, tmp_path: Path) -> None:
    # The secret at once, so that events are refused.
    value = stripe.create_key() if name == KEY else stripe.roll(overlap=0)
    given = ("-p", "new_key" if name == KEY else "new_secret", stripe.put(tmp_path, value))
    with sandbox.Traffic(rate=50, writes=True) as traffic:
        with subprocess.Popen(command(name, *given), stdout=subprocess.PIPE, text=True) as process:
            await_line(process, change)
            time.sleep(after)
            kernels = psutil.Process(process.pid).children(recursive=True) if victim == "kernel" else []
            for pid in [p.pid for p in kernels if "ipykernel" in " ".join(p.cmdline())] or [process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=120)
        outcome, _, shown = rotate(name, *given)
    assert outcome == "applied", shown
    assert stripe.problems() == []
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
