"""What the crash matrix kills: the stages of the rotations, what each starts from, and what must hold at its end."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.drills import access_key, database, jwt_secret, stripe_agreement


@dataclass(frozen=True)
class Subject:
    """A procedure with its parameters, what brings the stand-in to where it starts, and what must hold at its end."""

    procedure: str
    prepare: Callable[[], object]
    problems: Callable[[], list[str]]
    """Says what is wrong with the state that the procedure has ended in; nothing if all is well."""
    parameters: dict[str, str] = field(default_factory=dict)
    settle: int = 2
    """How long a new worker must stay up, in seconds; 0 for a procedure that makes none."""
    over: str = ""
    """The check by which it refuses to begin when it is over already: right after a kill in or after its last change.

    Empty for a procedure that may be run again at any time.
    """

    def __str__(self) -> str:
        return " ".join([self.procedure, *(f"{key}={value}" for key, value in self.parameters.items())])


def _jwt(prepare: Callable[[], object], **parameters: str) -> Subject:
    return Subject("rotate_jwt_secret", prepare, jwt_secret.problems, parameters, settle=1)


def _database(prepare: Callable[[], object], over: str = "", **parameters: str) -> Subject:
    return Subject("rotate_database_password", prepare, database.problems, parameters, over=over)


def _stripe(procedure: str, prepare: Callable[[], object], settle: int = 2, **parameters: str) -> Subject:
    given = {**parameters, "wait_seconds": "6"}
    return Subject(procedure, prepare, stripe_agreement.problems, given, settle)


def _s3(prepare: Callable[[], object], **parameters: str) -> Subject:
    return Subject("rotate_s3_credentials", prepare, access_key.problems, parameters)


# In the order of a rotation: where one ends, the next one begins, and little is left to prepare.
SUBJECTS = (
    _jwt(jwt_secret.idle),
    _jwt(jwt_secret.overlap, stage="retire"),
    _jwt(jwt_secret.overlap, compromised="True"),
    _database(database.one, over="The login before is retired"),
    _database(database.two, over="There is a login to retire", stage="retire"),
    _database(database.one, method="single"),
    _stripe("rotate_stripe_key", stripe_agreement.new_key),
    _stripe("retire_stripe_key", stripe_agreement.old_key, settle=0, old_key_last_used="leaked"),
    _stripe("rotate_webhook_secret", stripe_agreement.new_secret),
    _stripe("retire_webhook_secret", stripe_agreement.old_secret),
    _s3(access_key.one),
    _s3(access_key.two, stage="deactivate", compromised="True"),
    _s3(access_key.inactive, stage="delete", compromised="True"),
)
