"""Freeing: which sessions may be ended so that others get on, and ending exactly those.

Ending a session rolls back its transaction; its client sees SQLSTATE 57P01. Nothing takes that back.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from psycopg import sql

from opslib.blocking import Blocking
from opslib.change import Change
from opslib.errors import RunbookError
from opslib.postgres import Connection
from opslib.session import IDLE, Session, kept, read, same
from opslib.slots import Limit

PATIENCE = 5
"""Seconds that a session gets to end, or its statement to be cancelled."""


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
        """A row of evidence for each."""
        return [one.row() for one in self.candidates]

    def changes(self) -> list[Change]:
        """Make one change for each: a statement that runs is cancelled first, an idle transaction is terminated."""
        return [self._change(one) for one in self.chosen]

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
            shows=[_statement(call, one, again=number > 0).as_string(None) for number, call in enumerate(calls)],
            do=do,
            # Not asked again: a session that has ended or moved on meanwhile is left alone by the statement itself, and
            # that is no reason to stop half way.
            replaces=lambda: f"{session.name}, {session.state} since {since:%H:%M:%S} UTC: {session.said}",
        )

    def _call(self, call: Literal["cancel", "terminate"] | str, one: Candidate) -> str:
        """Call it on the session if it is still what was chosen. Give what became of it, empty if it is still there."""
        session = one.session
        cancelled = call == "terminate" and session.state == "active"
        assert self.connection is not None  # there would be no session to end
        found = self.connection.execute(_statement(call, one, again=cancelled)).fetchone()
        if found is None:
            return "freed by cancel" if cancelled else "left alone: it has ended or moved on by itself"
        if call == "terminate":
            if not found["done"]:
                raise RunbookError(f"session {session.pid} was told to end and has not within {PATIENCE} s; look at it")
            return "terminated"
        waiting = sql.SQL("SELECT FROM pg_stat_activity AS one WHERE {}").format(_still(session))
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
        found += [(one, 0) for one in sorted(idle, key=lambda one: -one.age)]
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


def blocked(connection: Connection, chosen: Sequence[Candidate]) -> list[dict[str, str]]:
    """Give the sessions that wait for one of those that were to be freed."""
    by_pid = {one.session.pid: one.session.backend_start for one in chosen}
    now = read(connection)
    still = {one.pid for one in now if by_pid.get(one.pid) == one.backend_start}
    return [one.row() for one in now if still & {*one.blocked_by}]


def _still(session: Session) -> sql.Composed:
    """The condition that this session, whatever it does by now, keeps others waiting and waits for nobody."""
    return sql.SQL(
        "pid = {} AND backend_start = {} AND cardinality(pg_blocking_pids(pid)) = 0"
        " AND EXISTS (SELECT FROM pg_stat_activity AS two WHERE one.pid = ANY(pg_blocking_pids(two.pid)))"
    ).format(session.pid, session.backend_start)


def _statement(call: str, one: Candidate, *, again: bool) -> sql.Composed:
    """The statement that acts, if the session is still the one that was chosen; `again` after a cancel."""
    function = sql.SQL("pg_cancel_backend(pid)" if call == "cancel" else "pg_terminate_backend(pid, {})").format(
        *([] if call == "cancel" else [PATIENCE * 1000])
    )
    conditions = [] if again else [same(one.session)]
    if one.blocks:
        conditions.append(_still(one.session))
    return sql.SQL("SELECT {} AS done FROM pg_stat_activity AS one WHERE {}").format(
        function, sql.SQL(" AND ").join(conditions)
    )


def _short(session: Session) -> dict[str, str]:
    row = session.row()
    return {key: row[key] for key in ("pid", "application", "role", "state", "last statement")}
