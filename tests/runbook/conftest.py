"""Where the tests of how a run works keep their records."""

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of the project that is empty."""
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    return tmp_path
