"""Freeing: which sessions may be ended so that others get on, and ending exactly those.

Ending a session rolls back its transaction; its client sees SQLSTATE 57P01. Nothing takes that back.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from opslib.database.blocking import Blocking
from opslib.database.postgres import Connection
from opslib.database.session import IDLE, Session, kept, read, same
from opslib.database.slots import Limit
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError

PATIENCE = 5
"""Seconds that a session gets to end, or its statement to be cancelled."""
BLOCKS: LiteralString = (
    "cardinality(pg_blocking_pids(pid)) = 0"
    " AND EXISTS (SELECT FROM pg_stat_activity AS w WHERE s.pid = ANY(pg_blocking_pids(w.pid)))"
)
"""The condition that a session keeps others waiting and waits for nobody."""


@dataclass(frozen=True)
class Candidate:
    """A session that stands in the way; `reason` says why it is left alone, empty if it may be freed."""

    session: Session
    blocks: int  # how many sessions wait for it
    reason: str
    kept: bool = False  # whether it may not be ended at all

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        stands = f"blocks {self.blocks}" if self.blocks else "takes a slot"
        row = {key: value for key, value in self.session.row().items() if key not in ("database", "client")}
        return {**row, "stands in the way": stands, "verdict": f"left: {self.reason}" if self.reason else "to be freed"}


@dataclass
class Freeing:
    """The sessions that stand in the way, the changes that free them, and what became of each.

    `connection` is None where no server answered, and then there are no sessions.
    """

    connection: Connection | None
    candidates: Sequence[Candidate]
    became: list[dict[str, str]] = field(default_factory=list)

    @property
    def chosen(self) -> list[Candidate]:
        """Those that are to be freed."""
        return [one for one in self.candidates if not one.reason]

    def of(self, application: str) -> list[Session]:
        """The sessions of this application that stand in the way and are neither kept nor the workers' own."""
        return [one.session for one in self.candidates if one.session.application == application and not one.kept]

    def rows(self) -> list[dict[str, str]]:
        """A row of evidence for each; those that are alike and left alone share one."""
        found: dict[object, tuple[dict[str, str], int]] = {}
        for one in self.candidates:
            row = one.row()
            alike = (one.session.name, one.session.state, one.reason) if one.reason and not one.blocks else one
            first, count = found.setdefault(alike, (row, 0))
            found[alike] = (first, count + 1)
        return [row | ({"pid": f"{count} sessions"} if count > 1 else {}) for row, count in found.values()]

    def changes(self, *, but: str = "") -> list[Change]:
        """Make one change for each: a statement that runs is cancelled first, an idle transaction is terminated.

        `but` is an application whose sessions end by other means.
        """
        return [self._change(one) for one in self.chosen if not but or one.session.application != but]

    def _change(self, one: Candidate) -> Change:
        session = one.session
        calls = ["cancel", "terminate"] if session.state == "active" else ["terminate"]
        since = session.query_start if session.state == "active" else session.state_change

        def do() -> None:
            for call in calls:
                came = self._call(call, one)
                if came:
                    break
            self.became.append({**_short(session), "became": came})

        return Change(
            f"Free session {session.pid}",
            [
                act(
                    *[
                        _statement(call, one, after_cancel=number > 0).as_string(None)
                        for number, call in enumerate(calls)
                    ],
                    run=do,
                )
            ],
            undo=Kept("this cannot be taken back"),
            replaces=lambda: f"{session.name}, {session.state} since {since:%H:%M:%S} UTC: {session.said}",
        )

    def _call(self, call: str, one: Candidate) -> str:
        """Call it on the session if it is still what was chosen. Give what became of it, empty if it is still there."""
        session = one.session
        cancelled = call == "terminate" and session.state == "active"
        assert self.connection is not None  # there would be no session to end
        found = self.connection.execute(_statement(call, one, after_cancel=cancelled)).fetchone()
        if found is None:
            return "freed by cancel" if cancelled else "left alone: it has ended or moved on by itself"
        if call == "terminate":
            if not found["done"]:
                raise RunbookError(f"session {session.pid} was told to end and has not within {PATIENCE} s; look at it")
            return "terminated"
        waiting = sql.SQL("SELECT FROM pg_stat_activity AS s WHERE {} AND {}").format(_named(session), sql.SQL(BLOCKS))
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            if self.connection.execute(waiting).fetchone() is None:
                return "freed by cancel"
            time.sleep(0.1)
        return ""


def choose(
    connection: Connection | None,
    sessions: Sequence[Session],
    limits: Sequence[Limit],
    *,
    roles: Collection[str],
    own: Collection[int],
    older_than: float,
    most: int,
) -> Freeing:
    """Choose what to free: roots that block others and, where slots run out, idle sessions, the oldest first.

    `own` are the pids of the workers' sessions: they may block, but an idle one is their pool. `older_than` are the
    seconds that a session must have been in its state, `most` how many are freed at most.
    """
    database = connection.info.dbname if connection else ""
    by_pid = {one.pid: one for one in sessions}
    forest = Blocking.among(sessions)
    found = [(by_pid[pid], len(forest.behind(pid))) for pid in forest.roots if pid in by_pid]
    roots = {one.pid for one, _ in found}
    excess = max((limit.excess for limit in limits), default=0)
    idle = [one for one in sessions if one.state in ("idle", *IDLE) and one.pid not in {*roots, *own}]
    if excess:
        found += [(one, 0) for one in sorted(idle, key=lambda one: (one.state_change, one.pid))]
    candidates: list[Candidate] = []
    for one, blocks in found:
        reason = never = kept(one, database=database, roles=roles)
        chosen = [c for c in candidates if not c.reason]
        if not reason and one.age < older_than:
            reason = f"only for {one.age:.0f} s, older_than_seconds is {older_than:g}"
        if not reason and not blocks and sum(not c.blocks for c in chosen) >= excess:
            reason = "not needed: enough slots are freed"
        if not reason and len(chosen) >= most:
            reason = f"over the cap: most is {most}"
        candidates.append(Candidate(one, blocks, reason, bool(never)))
    return Freeing(connection, candidates)


def may(connection: Connection, roles: Collection[str]) -> bool:
    """Whether this connection may end sessions of these roles: their member, pg_signal_backend, or a superuser."""
    found = connection.execute(
        "SELECT bool_and(pg_has_role(current_user, oid, 'USAGE') OR pg_has_role(current_user, 'pg_signal_backend',"
        " 'USAGE')) AS may FROM pg_roles WHERE rolname = ANY(%s)",
        [list(roles)],
    ).fetchone()
    return bool(found and found["may"])


def waiting(
    admin: Callable[[], Connection], roles: Collection[str], *, longer_than: float
) -> tuple[bool, list[dict[str, str]]]:
    """Whether no session of these roles waits for another one for longer than these seconds; with those that do."""
    with admin() as connection:
        found = [one for one in read(connection) if one.blocked_by and one.role in roles and one.age >= longer_than]
    return not found, Blocking.among(found).rows() or [one.row() for one in found]


def _statement(call: str, one: Candidate, *, after_cancel: bool = False) -> sql.Composed:
    """The statement that acts, if the session is still what was chosen, and still in the way."""
    function = sql.SQL("pg_cancel_backend(pid)" if call == "cancel" else "pg_terminate_backend(pid, {})").format(
        *([] if call == "cancel" else [PATIENCE * 1000])
    )
    still = sql.SQL(" AND " + BLOCKS if one.blocks else "")
    match = _named(one.session) if after_cancel else same(one.session)
    return sql.SQL("SELECT {} AS done FROM pg_stat_activity AS s WHERE {}{}").format(function, match, still)


def _named(session: Session) -> sql.Composed:
    """The condition that a row is this session, whatever it does by now."""
    return sql.SQL("pid = {} AND backend_start = {}").format(session.pid, session.backend_start)


def _short(session: Session) -> dict[str, str]:
    row = session.row()
    return {key: row[key] for key in ("pid", "application", "role", "state", "last statement")}
