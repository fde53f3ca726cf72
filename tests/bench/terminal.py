"""A terminal: commands run one after the other, and it remembers what was typed and what they said."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.sandbox.layout import ROOT


class Terminal:
    """`typed` and `said` are what anybody could read who looks over a shoulder, or at a list of processes."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.said: list[str] = []

    def run(self, *words: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        """Run a command to its end, and the bench no further if it fails."""
        self.typed.append(" ".join(map(str, words)))
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
        self.said.append(done.stdout + done.stderr)
        if done.returncode:
            raise SystemExit(f"{Path(words[0]).name} exited with {done.returncode}:\n{self.said[-1]}")
