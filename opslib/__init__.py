"""What the operations notebooks of PropertyPulse share. A notebook needs no more than these names."""

from opslib import propertypulse as _propertypulse  # noqa: F401 - it says as what files in parameters/ are read
from opslib.runbook.act import Later, act, call, program, sql
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import Outcome, RunbookError, UndoFailed
from opslib.runbook.finding import Finding, Severity
from opslib.runbook.run import Run, start

__all__ = [
    "Answer",
    "Change",
    "Finding",
    "Kept",
    "Later",
    "Outcome",
    "Run",
    "RunbookError",
    "Severity",
    "UndoFailed",
    "act",
    "call",
    "program",
    "sql",
    "start",
]
