"""A replay of 2,500, 5,000 and 10,000 events with duplicates, pairs out of order and 20 that are refused."""

import subprocess
import time
from contextlib import suppress
from datetime import datetime

import psutil

from tests import sandbox
from tests.drills.webhooks import Ran, words
from tests.sandbox import backlog

SIZES = (2_500, 5_000, 10_000)
REFUSED = 20


def main() -> None:
    """Print for each size the seconds of looking and of replaying, by event, the memory, and what came of it."""
    print("the bars: time linear, memory flat, each applied once, the 20 listed, nothing changed by a second run")
    print(
        f"{'events':>7} {'look, s':>8} {'replay, s':>10} {'ms each':>8} {'peak MiB':>9}  applied once, refused, again"
    )
    sandbox.start()
    sandbox.mend()
    sandbox.break_("webhook-error")
    try:
        for size in SIZES:
            backlog.clear()
            print(measured(size), flush=True)
    finally:
        backlog.clear()
        sandbox.mend()


def measured(size: int) -> str:
    """One line of the table."""
    ends = backlog.pile_up(size, refused=REFUSED)
    before = len(backlog.noted())
    first, peak = run(size)
    assert first.outcome == "applied", first.end
    right = backlog.states() == ends and len(backlog.noted()) == size - REFUSED
    (row,) = first.rows("The API has every event")
    once = int(row["sent again and taken"]) == size - REFUSED - before
    refused = len(first.rows("Refused and left out"))
    again, _ = run(size)
    unchanged = again.rows("The API has every event")[0]["sent again and taken"] == "0"
    took = between(first, "Replay ")
    result = f"{'yes' if right and once else 'NO'}, {refused}, {'nothing' if unchanged else 'CHANGED'}"
    return f"{size:>7} {look(first):>8.1f} {took:>10.1f} {took / size * 1000:>8.1f} {peak / 2**20:>9.0f}  {result}"


def run(size: int) -> tuple[Ran, int]:
    """Replay; give the record and the most memory of the kernel, in bytes."""
    arguments = ("-p", "retrying_minutes", "0", "-p", "skip_refused", str(REFUSED))
    command = words("replay_stripe_events", *arguments, "-p", "most", str(size), apply=True)
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for one in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    peak = max(peak, one.memory_info().rss)
            time.sleep(0.1)
        assert process.stdout is not None
        return Ran(process.stdout.read().splitlines()[-1]), peak


def between(ran: Ran, title: str) -> float:
    """Seconds that a change took."""
    step = next(step for step in reversed(ran.steps) if step["title"].startswith(title))
    return (datetime.fromisoformat(step["ended"]) - datetime.fromisoformat(step["at"])).total_seconds()


def look(ran: Ran) -> float:
    """Seconds from the probes to the events over time."""
    at = {step["title"]: datetime.fromisoformat(step["at"]) for step in ran.steps}
    return (at["Events over time"] - at["The API takes what Stripe signs"]).total_seconds()


if __name__ == "__main__":
    main()
