"""Freeing connections: which sessions may be ended so that others get on, and ending exactly those.

Ending a session rolls back its transaction; its client sees SQLSTATE 57P01. Nothing takes that back.
"""

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from opslib.database import admin, postgres
from opslib.database.blocking import Blocking
from opslib.database.connection_slots import Limit
from opslib.database.postgres import Connection
from opslib.database.sessions import IDLE, Session, read
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError

GONE, CANCELLED = "left alone: it has ended or moved on by itself", "freed by cancel"
PATIENCE = 5
"""Seconds that a session gets to end, or its statement to be cancelled."""
BLOCKS: LiteralString = (
    "cardinality(pg_blocking_pids(pid)) = 0"
    " AND EXISTS (SELECT FROM pg_stat_activity AS w WHERE s.pid = ANY(pg_blocking_pids(w.pid)))"
)
"""The condition that a session keeps others waiting and waits for nobody."""
_KEPT = re.compile(
    r"^pg_(dump|dumpall|restore|basebackup|receivewal|rewind|recvlogical)|prisma|migrat|schema-engine|barman|wal-?g"
    rf"|pgbackrest|patroni|repmgr|^{postgres.NAME}$",
    re.IGNORECASE,
)
"""Application names whose work is lost or half done when it is cut off: backups, migrations, replication, runbooks."""


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
    """The sessions that stand in the way, the changes that free them, and what became of each."""

    connection: Connection
    candidates: Sequence[Candidate]
    became: dict[int, dict[str, str]] = field(default_factory=dict)
    """By pid."""

    @property
    def chosen(self) -> list[Candidate]:
        """Those that are to be freed."""
        return [one for one in self.candidates if not one.reason]

    @property
    def ended(self) -> list[dict[str, str]]:
        """What became of each session so far."""
        return [*self.became.values()]

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
        runs = session.state == "active"
        since = session.query_start if runs else session.state_change
        match = _named(session) if runs else _same(session)
        terminate = _statement("pg_terminate_backend(pid, {})", match, one, PATIENCE * 1000)
        acts = [act(terminate.as_string(None), run=lambda: self._terminate(one, terminate))]
        if runs:
            cancel = _statement("pg_cancel_backend(pid)", _same(session), one)
            acts.insert(0, act(cancel.as_string(None), run=lambda: self._cancel(one, cancel)))
        return Change(
            f"Free session {session.pid}",
            acts,
            undo=Kept("this cannot be taken back"),
            replaces=lambda: f"{session.name}, {session.state} since {since:%H:%M:%S} UTC: {session.said}",
        )

    def _cancel(self, one: Candidate, statement: sql.Composed) -> None:
        """Cancel what a session runs, and see whether it stands in the way any more."""
        if self.connection.execute(statement).fetchone() is None:
            self._has_become(one, GONE)
            return
        waiting = sql.SQL("SELECT FROM pg_stat_activity AS s WHERE {} AND {}").format(
            _named(one.session), sql.SQL(BLOCKS)
        )
        ends = time.monotonic() + PATIENCE
        while self.connection.execute(waiting).fetchone() is not None:
            if time.monotonic() > ends:
                return
            time.sleep(0.1)
        self._has_become(one, CANCELLED)

    def _terminate(self, one: Candidate, statement: sql.Composed) -> None:
        """End a session, unless it is freed already."""
        if one.session.pid in self.became:
            return
        found = self.connection.execute(statement).fetchone()
        if found is not None and not found["done"]:
            raise RunbookError(f"session {one.session.pid} has not ended within {PATIENCE} s; look at it")
        gone = CANCELLED if one.session.state == "active" else GONE
        self._has_become(one, gone if found is None else "terminated")

    def _has_become(self, one: Candidate, what: str) -> None:
        row = one.session.row()
        short = {key: row[key] for key in ("pid", "application", "role", "state", "last statement")}
        self.became[one.session.pid] = short | {"became": what}


def choose(
    connection: Connection,
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
    database = connection.info.dbname
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


def kept(one: Session, *, database: str, roles: Collection[str]) -> str:
    """Say why a session must not be ended from here; empty if it may be."""
    if one.kind != "client backend":
        return f"the server's own {one.kind}"
    if one.database != database:
        return f"works in database {one.database}"
    if one.role not in roles:
        return f"belongs to role {one.role}"
    if one.migrates:
        return "runs a migration of Prisma"
    if _KEPT.search(one.application):
        return f"{one.application} must not be cut off"
    return ""


def may(connection: Connection, roles: Collection[str]) -> Answer:
    """Whether this connection may end sessions of these roles: their member, pg_signal_backend, or a superuser."""
    found = connection.execute(
        "SELECT bool_and(pg_has_role(current_user, oid, 'USAGE') OR pg_has_role(current_user, 'pg_signal_backend',"
        " 'USAGE')) AS may FROM pg_roles WHERE rolname = ANY(%s)",
        [list(roles)],
    ).fetchone()
    told = {"administrator": connection.info.user, "roles of the API": ", ".join(roles)}
    otherwise = "Make it a superuser, or grant it pg_signal_backend and pg_read_all_stats."
    return Answer(bool(found and found["may"]), told, otherwise)


def unblocked(environment: Deployment, roles: Collection[str], *, longer_than: float) -> Answer:
    """Whether no session of these roles waits for another one for longer than these seconds; with those that do."""
    with admin.connect(environment) as connection:
        sessions = read(connection)
    found = [one for one in sessions if one.blocked_by and one.role in roles and one.age >= longer_than]
    rows = Blocking.among(sessions).before({one.pid for one in found}).rows() or [one.row() for one in found]
    return Answer(not found, rows, "What blocks it may not be ended from here: the list above says why.")


def _statement(call: LiteralString, match: sql.Composed, one: Candidate, *values: int) -> sql.Composed:
    """The statement that acts, if the session is still what was chosen, and still in the way."""
    still = sql.SQL(" AND " + BLOCKS if one.blocks else "")
    function = sql.SQL(call).format(*values)
    return sql.SQL("SELECT {} AS done FROM pg_stat_activity AS s WHERE {}{}").format(function, match, still)


def _same(one: Session) -> sql.Composed:
    """The condition that a row is this session, in this state, since the same moment."""
    began, since = ("query_start", one.query_start) if one.state == "active" else ("state_change", one.state_change)
    return sql.SQL("{} AND state = {} AND {} = {}").format(_named(one), one.state, sql.SQL(began), since)


def _named(session: Session) -> sql.Composed:
    """The condition that a row is this session, whatever it does by now."""
    return sql.SQL("pid = {} AND backend_start = {}").format(session.pid, session.backend_start)
