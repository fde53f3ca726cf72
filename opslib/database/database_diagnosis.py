"""The diagnosis: what is wrong between the API and PostgreSQL, the worst first, and the procedure that mends it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opslib.api import health
from opslib.database import admin, api_login, freeing, sessions as all_sessions, slots
from opslib.database.api_login import ApiLogin
from opslib.database.blocking import Blocking, Node
from opslib.database.sessions import IDLE, Session
from opslib.database.settings import Database
from opslib.database.slots import Limit
from opslib.deployment.environment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Finding, Severity

_HEADS = {
    "refused": "PostgreSQL is down",
    "timeout": "PostgreSQL does not answer",
    "unreachable": "PostgreSQL is not reached",
    "dns": "The host of PostgreSQL is not known",
    "starting": "PostgreSQL is starting or stopping",
    "full": "PostgreSQL is saturated",
}


@dataclass(frozen=True)
class Seen:
    """How the API's login fares, and what an administrator sees of the server: nothing where none gets in."""

    environment: Deployment
    login: ApiLogin
    administrator: Answer
    sessions: Sequence[Session] = ()
    roles: Sequence[str] = ()
    limits: Sequence[Limit] = ()

    @property
    def forest(self) -> Blocking:
        """Who blocks whom."""
        return Blocking.among(self.sessions)

    @property
    def busy(self) -> list[Session]:
        """Who runs a statement or idles in a transaction, for a second or more; those that do so for longest first."""
        found = [one for one in self.sessions if one.state not in ("", "idle") and one.age >= 1]
        return sorted(found, key=lambda one: -one.age)


def look(environment: Deployment) -> Seen:
    """Ask the API's login, then the administrator."""
    url = admin.api_url(environment)
    login, administrator = api_login.ask(url), admin.good(environment)
    if not administrator:
        return Seen(environment, login, administrator)
    with admin.connect(environment) as connection:
        found, roles = all_sessions.read(connection), all_sessions.roles(connection, url)
        limits = slots.limits(connection, found, roles)
    return Seen(environment, login, administrator, found, roles, limits)


def findings(seen: Seen, api: health.Response, *, older_than: float) -> list[Finding]:
    """Say what was found. `older_than` are seconds."""
    forest = seen.forest
    found = [
        *_kept_out(seen),
        *(_blocks(seen, forest, node, older_than) for node in forest.nodes if not node.depth),
        *(_crowded(seen, limit, older_than) for limit in seen.limits if limit.crowded),
        *_long(seen, forest, older_than),
    ]
    if not api.well and not any(one.severity is Severity.HARM for one in found):
        found.append(Finding(f"PostgreSQL lets the API in, and the API says {api.problem}", "restart_api"))
    elif not api.well:
        found.append(
            Finding(f"The API says {api.problem}", do="Mend the above, then ask it again.", severity=Severity.NOTICE)
        )
    return sorted(found, key=lambda one: one.severity)


def _kept_out(seen: Seen) -> Iterator[Finding]:
    login = seen.login
    database = seen.environment.find(Database)
    if login.cause == "full":
        yield Finding(_HEADS["full"], "free_database_connections")
    elif login.cause == "refused" and database is not None and database.start:
        yield Finding(_HEADS["refused"], "start_database")
    elif login.cause != "none":
        head = _HEADS.get(login.cause, "The API cannot log in")
        yield Finding(f"{head} ({login.cause})", do=login.remedy)
    if login.unchecked:
        what = f"node-postgres, which checks the certificate with this sslmode, would refuse it: {login.unchecked}"
        yield Finding(
            what,
            do="If the API uses it, as Prisma's adapter does: sslrootcert with the server's CA, or sslmode=no-verify.",
            severity=Severity.RISK,
        )
    if not seen.administrator and not login.down:
        what = f"The administrator does not get in: {seen.administrator.evidence}"
        yield Finding(
            what, do="Name a superuser in database.admin: a few slots are kept for those.", severity=Severity.RISK
        )


def _blocks(seen: Seen, forest: Blocking, node: Node, older_than: float) -> Finding:
    what = f"Session {node.title} keeps {len(forest.behind(node.pid))} waiting: {node.does}"
    if node.session is None:
        return Finding(what, do="Look into pg_prepared_xacts, then ROLLBACK PREPARED it.")
    why = freeing.kept(node.session, database=admin.database(seen.environment), roles=seen.roles)
    if why:
        return Finding(what, do=f"It may not be ended from here ({why}): ask whose it is, or wait.")
    return Finding(what, "free_database_connections", {"older_than_seconds": f"{older_than:g}"})


def _crowded(seen: Seen, limit: Limit, older_than: float) -> Finding:
    here = [one.name for one in seen.sessions if one.kind == "client backend"]
    most = max({*here}, key=lambda name: (here.count(name), name), default="")
    what = f"Of {limit.slots} slots of {limit.of} {limit.taken} are taken, {here.count(most)} of them by {most}"
    severity = Severity.HARM if seen.login.cause == "full" else Severity.RISK
    return Finding(what, "free_database_connections", {"older_than_seconds": f"{older_than:g}"}, severity=severity)


def _long(seen: Seen, forest: Blocking, older_than: float) -> Iterator[Finding]:
    for one in seen.sessions:
        if one.age < older_than or one.blocked_by or one.pid in forest.roots or one.kind != "client backend":
            continue
        if one.state in IDLE:
            what = f"Session {one.pid} {one.name} idles in a transaction for {one.age:.0f} s"
            yield Finding(what, do="It keeps vacuum from its work: ask whose it is.", severity=Severity.NOTICE)
        elif one.state == "active":
            what = f"Session {one.pid} {one.name} runs one statement for {one.age:.0f} s"
            yield Finding(what, "tune_queries", severity=Severity.NOTICE)
