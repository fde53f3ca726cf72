"""A finding: what a procedure was asked to look for and found wrong, and what mends it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """How bad a finding is, the worst first: harm that is being done, harm to come, something to know."""

    HARM = 0
    RISK = 1
    NOTICE = 2


@dataclass(frozen=True)
class Finding:
    """What is wrong, and the procedure that mends it with its parameters; where none does, what to do by hand."""

    what: str
    mend: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    do: str = ""
    severity: Severity = Severity.HARM

    def command(self, environment: str) -> str:
        """Give what is typed to open the procedure that mends it, or what to do by hand."""
        if not self.mend:
            return self.do
        given = [word for key, value in self.parameters.items() for word in ("-p", key, str(value))]
        return shlex.join(["runbook", "run", self.mend, "-e", environment, *given])

    def describe(self, environment: str) -> dict[str, Any]:
        """Give what its step says besides: how bad it is, what mends it, and as `note` what to do next."""
        return {
            "severity": int(self.severity),
            "mend": self.mend,
            "parameters": {key: str(value) for key, value in self.parameters.items()},
            "note": self.command(environment),
        }
