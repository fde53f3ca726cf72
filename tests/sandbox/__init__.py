"""A small but real PropertyPulse on loopback, which can be broken on purpose."""

from .deployment import start, status, stop
from .errors import SandboxError
from .fault import FAULTS, break_, mend
from .traffic import Result, Traffic

__all__ = ["FAULTS", "Result", "SandboxError", "Traffic", "break_", "mend", "start", "status", "stop"]
