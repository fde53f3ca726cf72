"""What the operations notebooks of PropertyPulse share. A notebook needs no more than these names."""

from opslib.change import Change
from opslib.errors import Outcome, RunbookError, UndoFailed
from opslib.run import Run, start

__all__ = ["Change", "Outcome", "Run", "RunbookError", "UndoFailed", "start"]
