"""What the operations notebooks of PropertyPulse share. A notebook needs no more than these names."""

from opslib import propertypulse as _propertypulse  # noqa: F401 - it says as what files in parameters/ are read
from opslib.runbook.change import Change
from opslib.runbook.errors import Outcome, RunbookError, UndoFailed
from opslib.runbook.run import Run, start

__all__ = ["Change", "Outcome", "Run", "RunbookError", "UndoFailed", "start"]
