"""What can go wrong, and how a run ends.

RunbookError
├── Refused              the run may not start or go on: exit 4
│   ├── BadParameter     (also a ValueError)
│   ├── BadEnvironment   (also a ValueError)
│   ├── NotApproved
│   └── Held             another run holds the environment
├── CheckFailed          an answer was not yes
│   └── Damaged          backups: an archive is not, to the last byte, what its manifest says
├── PlanVoid             the world has overtaken the plan
├── ChangeFailed
├── UndoFailed
├── VerifyFailed
├── CommandFailed        an outside program failed; carries its exit code and output
│   └── TimedOut         it had not ended by then; what it has done by then is done
├── RunFailed            raised by the papermill engine when a run did not end well
├── EnvFileError         deployment: an `.env` cannot be read or edited safely (also a ValueError)
├── UrlError             database: a URL is none that can be used (also a ValueError)
├── LoginFailed          database: nobody could log in; says of what kind that is
└── Unanswered           aws: the API's sign-in gave no token
"""

from enum import StrEnum
from typing import Any

SHOWN_LINES = 8


class Outcome(StrEnum):
    """How a run ended, as its record says it."""

    PLANNED = "planned"
    APPLIED = "applied"
    FAILED = "failed"
    UNDONE = "undone"
    NEEDS_PERSON = "needs-person"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        """The exit code of `runbook run`; 143 for an interrupted run unless Ctrl-C stopped it, which is 130."""
        return _EXIT_CODES[self]


FOUND = 5
"""The exit code of a run that ended well and found something wrong."""

_EXIT_CODES = {
    Outcome.PLANNED: 0,
    Outcome.APPLIED: 0,
    Outcome.FAILED: 1,
    Outcome.UNDONE: 2,
    Outcome.NEEDS_PERSON: 3,
    Outcome.REFUSED: 4,
    Outcome.INTERRUPTED: 143,
}


class RunbookError(Exception):
    """The root of all errors that a procedure raises on purpose; `evidence` is shown below it as a table."""

    def __init__(self, message: str, evidence: Any = None) -> None:
        super().__init__(message)
        self.evidence = evidence

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: the operator needs the sentence, not the frames of opslib.
        return [f"{type(self).__name__}: {self}"]


class Refused(RunbookError):
    """The run may not start, or not go on, and has changed nothing by this."""


class BadParameter(Refused, ValueError):
    """A parameter is unknown, of the wrong type or out of range."""


class BadEnvironment(Refused, ValueError):
    """An environment file is missing or wrong."""


class NotApproved(Refused):
    """The environment asks for an approval that is not there, or is for another plan."""


class Held(Refused):
    """Another run holds the environment."""


class CheckFailed(RunbookError):
    """A check was not answered yes."""


class PlanVoid(RunbookError):
    """What a change would replace is no longer what the plan showed."""


class ChangeFailed(RunbookError):
    """A change did not succeed."""


class UndoFailed(RunbookError):
    """An undo could not put back what was there."""


class VerifyFailed(RunbookError):
    """A verify was still false when its time was up."""


class CommandFailed(RunbookError):
    """An outside program is missing, failed or took too long; `evidence` is the end of what it said."""

    def __init__(self, message: str, exit_code: int | None = None, output: str = "") -> None:
        super().__init__(message, output.strip().splitlines()[-SHOWN_LINES:])
        self.exit_code = exit_code
        self.output = output


class TimedOut(CommandFailed):
    """An outside program had not ended when its time was up, and was stopped."""


class RunFailed(RunbookError):
    """A run under plain papermill did not end well; carries its outcome."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


def first_line(error: BaseException) -> str:
    """Give what an error of a library says, without the statement or the hints below it."""
    return (str(error).strip() or "no reason given").splitlines()[0]
