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
    """What it is given as `settle_seconds`; 0 where no worker is replaced, and there is no such parameter."""
    over: str = ""
    """The check by which it refuses to begin when it is over already: right after a kill in or after its last change.

    Empty for a procedure that may be run again at any time.
    """

    def __str__(self) -> str:
        return " ".join([self.procedure, *(f"{key}={value}" for key, value in self.parameters.items())])


def _jwt(procedure: str, prepare: Callable[[], object], over: str = "") -> Subject:
    return Subject(procedure, prepare, jwt_secret.problems, settle=1, over=over)


def _database(procedure: str, prepare: Callable[[], object], over: str = "", settle: int = 2) -> Subject:
    return Subject(procedure, prepare, database.problems, settle=settle, over=over)


def _stripe(procedure: str, prepare: Callable[[], object], settle: int = 2, **parameters: str) -> Subject:
    given = {**parameters, "wait_seconds": "6"}
    return Subject(procedure, prepare, stripe_agreement.problems, given, settle)


def _s3(procedure: str, prepare: Callable[[], object], settle: int = 0, over: str = "", **parameters: str) -> Subject:
    return Subject(procedure, prepare, access_key.problems, parameters, settle, over)


# In the order of a rotation: where one ends, the next one begins, and little is left to prepare.
SUBJECTS = (
    _jwt("rotate_jwt_secret", jwt_secret.idle, over="The last rotation has ended"),
    _jwt("retire_jwt_secret", jwt_secret.overlap, over="There is an old secret to retire"),
    _jwt("revoke_jwt_secret", jwt_secret.overlap),
    _database("rotate_database_password", database.one, over="The login before is retired"),
    _database("retire_database_login", database.two, over="There is a login to retire", settle=0),
    _database("change_database_password", database.one),
    _stripe("rotate_stripe_key", stripe_agreement.new_key),
    _stripe("retire_stripe_key", stripe_agreement.old_key, settle=0, old_key_last_used="leaked"),
    _stripe("rotate_webhook_secret", stripe_agreement.new_secret),
    _stripe("retire_webhook_secret", stripe_agreement.old_secret),
    _s3("rotate_s3_credentials", access_key.one, settle=2, over="The user may get another key"),
    _s3("deactivate_s3_key", access_key.two, accept_broken_uploads="True"),
    _s3("reactivate_s3_key", access_key.inactive),
    _s3("delete_s3_key", access_key.inactive, over="A rotation has left an old key", quiet_seconds="0"),
)
