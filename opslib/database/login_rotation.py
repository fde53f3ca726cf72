"""Login rotation: the changes by which a new login takes the place of the one in force, and the old one is locked out.

Each may be stopped anywhere and made again. The order of what is written, by which a run that is run again knows how
far it came: the new URL staged · the old URL and, by method single, the old verifier kept · PostgreSQL · the `.env` ·
the workers, one by one · a note that the new login is in force. Undone in the opposite order.
"""

from collections.abc import Callable
from dataclasses import replace

from opslib.api.rollout import rollout, tidy
from opslib.database import database_url, password as passwords, postgres, role, sessions
from opslib.database.login import KEY, Login
from opslib.database.postgres import Connection
from opslib.deployment import env_file
from opslib.runbook.act import Later, act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter, RunbookError, UndoFailed
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located

PATIENCE = 60
"""Seconds for which an undo goes on trying to reach PostgreSQL."""


def create(login: Login, password: str = "") -> Change:
    """Make the change that gives the target role a new password, which only the staging file has yet.

    `password` is a reference; empty makes 43 random characters. Order: the new URL on disk, then the old one and
    the old verifier, then PostgreSQL. Undone by the old verifier (single) or by locking the new role (alternate).
    """
    target, before, resumed = login.target, login.old, bool(login.secret.pending)
    alternates = target != database_url.user(before)
    first = min(target, database_url.user(before), key=len)
    begun: list[str] = []

    def do() -> None:
        given = passwords.chosen(password) if password else ""
        if not login.secret.pending:
            login.verifier.discard()  # of a run that was killed when it had nothing to undo any more
        url = login.secret.create(lambda: _url(login, target, given or passwords.make()))
        staged = database_url.parameters(url)["password"]
        if given and given != staged:
            raise BadParameter(f"password: a killed run has staged another in {login.secret.file}; run without it")
        login.secret.keep()

        def act(connection: Connection) -> None:
            made = postgres.verifier(connection, target, staged)
            if not alternates and (held := role.stored(connection, target)):
                login.verifier.create(lambda: held)
            begun.append(target)
            if target == first:
                connection.execute(role.set_password(target, made))
            else:
                role.make_twin(connection, first, made)

        login.administer(act)

    def undo() -> None:
        if login.secret.pending and login.secret.current == login.secret.pending:
            raise UndoFailed("the .env still names the new login, so it was left in force; put the old one there")
        if (begun or resumed) and not alternates:
            _restore(login, before)
        elif begun or resumed:
            _patiently(login, lambda connection: _lock(connection, target))
        login.verifier.discard()
        login.secret.discard()
        login.secret.retire()

    statement = f"ALTER ROLE {target} LOGIN PASSWORD '…' (a SCRAM verifier)"
    return Change(
        f"Give the role {target} a new password",
        [
            act(
                f"stage the new {KEY} in {located(login.secret.file)}",
                *([statement] if target == first else role.shows(first)),
                run=do,
            )
        ],
        undo=[act(f"ALTER ROLE {target} NOLOGIN PASSWORD NULL" if alternates else _restores(target), run=undo)],
        replaces=lambda: f"role {target}{'' if alternates else ', which the API logs in with'}",
    )


def switch(login: Login, *, settle: float) -> Change:
    """Make the change that puts the new URL into the `.env` and lets the workers log in anew, one by one.

    By method single PostgreSQL gets its old verifier back before the workers are reloaded with the old `.env`.
    """
    before, file = login.old, login.environment.api.env_file
    rolled = rollout(
        login.environment, "Let the workers log in anew", {KEY: Later("the new URL", lambda: login.new)}, settle=settle
    )
    if login.target != database_url.user(before):
        return rolled

    def undo() -> None:
        if login.secret.current == login.new and login.new != before and not env_file.latest(file):
            raise UndoFailed(f"{located(file)} was changed meanwhile, so its login was left in force; mend it by hand")
        _restore(login, before)

    return replace(rolled, undo=[act(_restores(login.target), run=undo), *rolled.way_back])


def keep(login: Login) -> Change:
    """Make the change that closes a switch on disk: by method single the old URL is of no use any more."""

    def do() -> None:
        over = database_url.user(login.old) == database_url.user(login.new)
        # What says that it has ended is written last: a run after that would refuse to begin, and clear nothing.
        tidy(login.environment)
        login.verifier.discard()
        login.secret.finish()
        if over:
            login.secret.retire()

    kept = "forget the old URL" if login.method == "single" else "keep the old URL until stage retire"
    return Change(
        "Close the rotation",
        [act(kept, f"remove the backups of {located(login.environment.api.env_file)}", run=do)],
        undo=Kept("nothing that is in force depends on it", matters=False),
        replaces=lambda: located(login.secret.file),
    )


def lock(login: Login) -> Change:
    """Make the change after which the old login is refused, and whoever still has it is disconnected.

    The verifier is on disk first; undone by putting it back. A role that is in force is never locked.
    """
    before = login.old
    old = database_url.user(before)
    replaced = old == database_url.user(login.secret.current)  # by method single, which was killed at its very end
    begun = [old] if login.verifier.pending else []  # by a run that was killed

    def do() -> None:
        def act(connection: Connection) -> None:
            if held := role.stored(connection, old):
                login.verifier.discard()
                login.verifier.create(lambda: held)
            begun.append(old)
            connection.execute(role.lock(old))
            sessions.end(connection, old)

        if not replaced:
            login.administer(act)

    def undo() -> None:
        if begun and not replaced:
            _restore(login, before)
        login.verifier.discard()

    return Change(
        f"Lock the role {old} out",
        [
            act(
                *(
                    ["nothing: its password was replaced at the switch"]
                    if replaced
                    else [f"ALTER ROLE {old} NOLOGIN PASSWORD NULL", f"pg_terminate_backend of the sessions of {old}"]
                ),
                run=do,
            )
        ],
        undo=[act(_restores(old), run=undo)],
        replaces=lambda: f"role {old}, which was in force before",
    )


def forget(login: Login) -> Change:
    """Make the change that removes the old URL from the disk, once it opens nothing any more."""

    def do() -> None:
        tidy(login.environment)
        login.verifier.discard()
        login.secret.retire()

    return Change(
        "Forget the old URL",
        [act(f"remove it from {located(login.secret.file)}", run=do)],
        undo=Kept("it opens nothing any more", matters=False),
        replaces=lambda: located(login.secret.file),
    )


def _url(login: Login, target: str, password: str) -> str:
    mask.add("the new password", password)
    return database_url.with_login(login.secret.current, target, password)


def _restore(login: Login, url: str) -> None:
    """Give a role the verifier that it had; where that could not be read, one made from the old password."""
    found = database_url.parameters(url)

    def act(connection: Connection) -> None:
        had = login.verifier.pending or postgres.verifier(connection, found["user"], found["password"])
        connection.execute(role.set_password(found["user"], had))

    _patiently(login, act)


def _lock(connection: Connection, name: str) -> None:
    if role.read(connection, name):
        connection.execute(role.lock(name))


def _patiently(login: Login, act: Callable[[Connection], None]) -> None:
    try:
        login.administer(act, within=PATIENCE)
    except RunbookError as error:
        raise UndoFailed(f"{error} Run this procedure again once PostgreSQL answers: it carries on.") from None


def _restores(name: str) -> str:
    return f"ALTER ROLE {name} LOGIN PASSWORD '…' (the old verifier)"
