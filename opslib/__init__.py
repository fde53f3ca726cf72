"""What the operations notebooks of PropertyPulse share. A notebook needs no more than these names."""

from opslib import propertypulse as _propertypulse  # noqa: F401 - it says as what files in parameters/ are read
from opslib.runbook.act import act, call, sql
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import Outcome, RunbookError, UndoFailed
from opslib.runbook.run import Run, start

__all__ = ["Change", "Kept", "Outcome", "Run", "RunbookError", "UndoFailed", "act", "call", "sql", "start"]
