"""Finished records for tests, in a folder of their own."""

from pathlib import Path
from typing import Any

from opslib.runbook import record


def make(name: str, **about: Any) -> Path:
    """Save a finished record, not sealed yet."""
    known: dict[str, Any] = {"procedure": "act", "environment": "test", "started": "2026-01-01T00:00:00.000Z"}
    known |= {"finished": "2026-01-01T00:00:01.000Z", "outcome": "applied", "apply": True, "process": record.process()}
    file = record.folder() / f"{about.get('environment', 'test')}/{name}.ipynb"
    record.save(file, record.dumps({"metadata": {"opslib": known | about}, "cells": []}))
    return file
