"""What the operations notebooks of PropertyPulse share: a notebook needs these names, and those of its own system."""

from opslib import propertypulse as _propertypulse  # noqa: F401 - it says as what files in parameters/ are read
from opslib.runbook.act import act, call, program, sql
from opslib.runbook.change import Change, Kept
from opslib.runbook.run import start

__all__ = ["Change", "Kept", "act", "call", "program", "sql", "start"]
