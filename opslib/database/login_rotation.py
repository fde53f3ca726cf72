"""Login rotation: the changes by which a new login takes the place of the one in force, and the old one is locked out.

Each may be stopped anywhere and made again. The order of what is written, by which a run that is run again knows how
far it came: the new URL staged · the old URL and, where one role changes its password, the old verifier kept ·
PostgreSQL · the `.env` · the workers, one by one · a note that the new login is in force. Undone in the opposite order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import TypeVar

from psycopg import sql

from opslib.api.rollout import rollout, tidy
from opslib.database import admin, companion, database_url, password as passwords, postgres, role
from opslib.database.login import KEY, Login
from opslib.database.postgres import Connection
from opslib.deployment import env_file
from opslib.runbook.act import Act, Later, act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter, RunbookError, UndoFailed
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located

PATIENCE = 60
"""Seconds for which an undo goes on trying to reach PostgreSQL."""
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {} AND application_name <> {}"

_NEW, _OLD = sql.SQL("‹a SCRAM verifier of the new password›"), sql.SQL("‹the old verifier›")

T = TypeVar("T")
Statements = Callable[[str | sql.Composable], Sequence[sql.Composed]]
"""Gives statements that have this verifier in them: what is shown has its name there."""


def create(login: Login, password: str = "") -> Change:
    """Make the change that gives the target role a new password, which only the staging file has yet.

    `password` is a reference; empty makes 43 random characters. Undone by the old verifier where the role is in force,
    else by locking it.
    """
    target, before, resumed = login.target, login.old, bool(login.secret.pending)
    alternates = target != database_url.user(before)
    begun: list[str] = []

    def make(connection: Connection) -> None:
        url = database_url.parameters(login.secret.pending)
        begun.append(target)
        _execute(connection, statements(postgres.verifier(connection, target, url["password"])))

    def lock_again() -> None:
        if begun or resumed:
            there = [role.lock(target)] if _patiently(login, lambda c: role.read(c, target)) else []
            _patiently(login, lambda connection: _execute(connection, there))

    def restore() -> None:
        if begun or resumed:
            _restore(login, before)

    def forget() -> None:
        login.verifier.discard()
        login.secret.discard()
        login.secret.retire()

    statements = _statements(login, target, min(target, database_url.user(before), key=len))
    staged = located(login.secret.file)
    keep = act(f"keep the verifier of {target} in {staged}", run=lambda: _keep_verifier(login, target))
    back = act(role.lock(target).as_string(), run=lock_again) if alternates else _restoring(target, restore)
    return Change(
        f"Give the role {target} a new password",
        [
            act(f"stage the new {KEY} in {staged}", run=lambda: _stage(login, target, password)),
            *([] if alternates else [keep]),
            act(
                *(one.as_string() for one in statements(_NEW)),
                run=lambda: admin.carry_out(login.environment, make),
            ),
        ],
        undo=[
            act(f"see that the .env does not name the new {KEY}", run=lambda: _not_in_force(login)),
            back,
            act(f"forget what is staged in {staged}", run=forget),
        ],
        replaces=lambda: f"role {target}{'' if alternates else ', which the API logs in with'}",
    )


def switch(login: Login, *, settle: float) -> Change:
    """Make the change that puts the new URL into the `.env` and lets the workers log in anew, one by one.

    Where one role changes its password PostgreSQL gets the old verifier back before the workers are reloaded with the
    old `.env`.
    """
    before, file = login.old, login.environment.api.env_file
    values = {KEY: Later("the new URL", lambda: login.new)} | {
        one.variable: Later("its URL with the new login", partial(_along, login, one.variable))
        for one in login.companions
        if not one.stands
    }
    title = "Let the workers log in anew"
    rolled = rollout(login.environment, title, values, replaces=[KEY], settle=settle)
    if login.target != database_url.user(before):
        return rolled

    def undo() -> None:
        made = env_file.latest(file, login.environment.place)
        if login.secret.current == login.new and login.new != before and not made:
            raise UndoFailed(f"{located(file)} was changed meanwhile, so its login was left in force; mend it by hand")
        _restore(login, before)

    return replace(rolled, undo=[_restoring(login.target, undo), *rolled.way_back])


def keep(login: Login) -> Change:
    """Make the change that closes a rotation on disk: where one role has another password the old URL is of no use."""
    over = database_url.user(login.old) == login.target
    staged = located(login.secret.file)
    # What says that it has ended is written last: a run after that would refuse to begin, and clear nothing.
    acts = [
        tidy(login.environment),
        *([act(f"forget the old verifier in {staged}", run=login.verifier.discard)] if over else []),
        act(f"say in {staged} that the new {KEY} is in force, and keep the old one", run=login.secret.finish),
        *([act(f"forget the old {KEY} in {staged}", run=login.secret.retire)] if over else []),
    ]
    kept = Kept("nothing that is in force depends on it", matters=False)
    return Change("Close the rotation", acts, undo=kept, replaces=lambda: staged)


def lock(login: Login) -> Change:
    """Make the change after which the old login is refused, and whoever still has it is disconnected.

    The verifier is on disk first; undone by putting it back. A role that is in force is never locked.
    """
    before = login.old
    old = database_url.user(before)
    replaced = old == database_url.user(login.secret.current)  # its password was changed, by a run killed at its end
    begun = [old] if login.verifier.pending else []  # by a run that was killed
    ended = sql.SQL(END).format(old, postgres.NAME)

    def keep_verifier() -> None:
        _keep_verifier(login, old, anew=True)

    def make(connection: Connection) -> None:
        begun.append(old)
        for statement in (role.lock(old), ended):
            connection.execute(statement)

    def undo() -> None:
        if begun and not replaced:
            _restore(login, before)

    acts = [
        act(f"keep the verifier of {old} in {located(login.secret.file)}", run=keep_verifier),
        act(
            role.lock(old).as_string(),
            ended.as_string(),
            run=lambda: admin.carry_out(login.environment, make),
        ),
    ]
    return Change(
        f"Lock the role {old} out",
        [act("nothing: its password was replaced already", run=lambda: None)] if replaced else acts,
        undo=[_restoring(old, undo), act("forget the verifier that was kept", run=login.verifier.discard)],
        replaces=lambda: f"role {old}, which was in force before",
    )


def forget(login: Login) -> Change:
    """Make the change that removes the old URL from the disk, once it opens nothing any more."""
    staged = located(login.secret.file)
    return Change(
        "Forget the old URL",
        [
            tidy(login.environment),
            act(f"forget the old verifier in {staged}", run=login.verifier.discard),
            act(f"forget the old {KEY} in {staged}", run=login.secret.retire),
        ],
        undo=Kept("it opens nothing any more", matters=False),
        replaces=lambda: staged,
    )


def clock(connection: Connection) -> datetime:
    """Give the time of the server."""
    found = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert found is not None
    now: datetime = found["now"]
    return now


def due(*, days: int = 1) -> date:
    """Give the day on which the old login may be locked out: until then a job that runs at night has shown itself."""
    return date.today() + timedelta(days)


def _stage(login: Login, target: str, password: str) -> None:
    """Put the new URL on disk, and the old one, before PostgreSQL hears of either."""
    given = passwords.chosen(password) if password else ""
    if not login.secret.pending:
        login.verifier.discard()  # of a run that was killed when it had nothing to undo any more
    url = login.secret.create(lambda: _url(login, target, given or passwords.make()))
    if given and given != database_url.parameters(url)["password"]:
        raise BadParameter(f"password: a killed run has staged another in {login.secret.file}; run without it")
    login.secret.keep()


def _statements(login: Login, target: str, first: str) -> Statements:
    """Give what gives the role its password: one statement, or those that make the twin or bring it up to date."""
    if target == first:
        return lambda verifier: [role.set_password(target, verifier)]
    made = admin.carry_out(login.environment, lambda connection: role.make_twin(connection, first, _NEW))
    return lambda verifier: [*made[:-1], role.set_password(target, verifier)]


def _keep_verifier(login: Login, name: str, *, anew: bool = False) -> None:
    held = admin.carry_out(login.environment, lambda connection: role.stored(connection, name))
    if held and anew:
        login.verifier.discard()
    if held:
        login.verifier.create(lambda: held)


def _not_in_force(login: Login) -> None:
    if login.secret.pending and login.secret.current == login.secret.pending:
        raise UndoFailed("the .env still names the new login, so it was left in force; put the old one there")


def _url(login: Login, target: str, password: str) -> str:
    mask.add("the new password", password)
    return database_url.with_login(login.secret.current, target, password)


def _along(login: Login, variable: str) -> str:
    return companion.with_login(login.environment, variable, login.new)


def _restoring(name: str, run: Callable[[], object]) -> Act:
    return act(role.set_password(name, _OLD).as_string(), run=run)


def _restore(login: Login, url: str) -> None:
    """Give a role the verifier that it had; where that could not be read, one made from the old password."""
    found = database_url.parameters(url)

    def put_back(connection: Connection) -> None:
        had = login.verifier.pending or postgres.verifier(connection, found["user"], found["password"])
        connection.execute(role.set_password(found["user"], had))

    _patiently(login, put_back)


def _execute(connection: Connection, statements: Sequence[sql.Composed]) -> None:
    with connection.transaction():
        for statement in statements:
            connection.execute(statement)


def _patiently(login: Login, made: Callable[[Connection], T]) -> T:
    try:
        return admin.carry_out(login.environment, made, within=PATIENCE)
    except RunbookError as error:
        raise UndoFailed(f"{error} Run this procedure again once PostgreSQL answers: it carries on.") from None
