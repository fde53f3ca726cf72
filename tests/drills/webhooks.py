"""Runs of the procedures about webhooks on the stand-in, and what their records say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Rows = list[dict[str, str]]


class Ran:
    """One run: its outcome, and the evidence of its steps."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        record = json.loads(self.path.read_text())
        self.outcome: str = record["metadata"]["opslib"]["outcome"]
        outputs = [output for cell in record["cells"] for output in cell.get("outputs", [])]
        self.steps: list[dict[str, Any]] = [s for o in outputs if (s := o.get("metadata", {}).get("opslib"))]
        self.text = self.path.read_text()

    def rows(self, title: str) -> Rows:
        """The evidence of the step whose title begins so."""
        found = [step for step in self.steps if step["title"].startswith(title)]
        assert found, (title, [step["title"] for step in self.steps])
        rows: Rows = found[-1].get("evidence", [])
        return rows

    @property
    def end(self) -> str:
        """How it ended, in words."""
        return str(self.steps[-1]["title"])

    @property
    def named(self) -> set[str]:
        """The causes that triage names: they stand, or the log tells of them, or events have them."""
        return {row["cause"] for row in self.rows("Causes") if "cause" in row}

    @property
    def standing(self) -> set[str]:
        """The causes that stand."""
        return {row["cause"] for row in self.rows("Causes") if row.get("stands now") == "yes"}

    @property
    def found(self) -> list[str]:
        """What was found wrong, the worst first."""
        found = [step for step in self.steps if step["step"] == "finding"]
        return [step["title"] for step in sorted(found, key=lambda step: step["severity"])]


def words(name: str, *arguments: str, apply: bool = False) -> list[str]:
    """The words of a run."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", name, *arguments]
    return [*command, *(["--apply"] if apply else [])]


def run(name: str, *arguments: str, apply: bool = False) -> Ran:
    """Run a procedure to its end."""
    done = subprocess.run(words(name, *arguments, apply=apply), capture_output=True, text=True, timeout=550)
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.stdout.splitlines()[-1])


def triage(*arguments: str, apply: bool = False) -> Ran:
    """Triage all events up to now."""
    return run("triage_stripe_webhooks", "-p", "retrying_minutes", "0", *arguments, apply=apply)


def replay(*arguments: str) -> Ran:
    """Replay what is missing."""
    return run("replay_stripe_events", "-p", "retrying_minutes", "0", *arguments, apply=True)
