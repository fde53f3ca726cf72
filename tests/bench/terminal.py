"""A terminal: commands run one after the other, and it remembers what was typed and what they said."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.sandbox.layout import ROOT


class Terminal:
    """`typed` is what a list of processes shows, `said` what stands on the screen. What fails stops nothing."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.said: list[str] = []
        self.exits: list[int] = []

    def run(self, *words: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        """Run a command to its end."""
        self.typed.append(" ".join(map(str, words)))
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
        self.said.append(done.stdout + done.stderr)
        self.exits.append(done.returncode)
