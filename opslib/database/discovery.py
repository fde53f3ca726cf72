"""What an environment's file says of PostgreSQL, as far as the API's login, this machine and an administrator tell."""

import configparser
import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from opslib.database import admin, database_url, postgres, postmaster, role, schema
from opslib.database.postgres import Connection, Lent
from opslib.database.settings import Database, RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed, RunbookError

POOLER = Path("/etc/pgbouncer/pgbouncer.ini")
SERVICES = Path("~/.pg_service.conf")
SOCKETS = ("/var/run/postgresql", "/tmp")
"""Where PostgreSQL's sockets lie unless it was told otherwise."""
SUDOERS = ("sudo", "wheel", "admin")
"""Groups whose members sudo can be asked about without a mail to its administrator."""
ABLE = (
    "It must be a superuser, or have CREATEROLE, CREATEDB, the ADMIN option on the API's role, pg_read_all_data, "
    "pg_read_all_stats and pg_signal_backend."
)
_MAY = """SELECT rolname AS role, rolsuper, rolsuper OR rolcreatedb AS "CREATEDB",
  pg_has_role('pg_read_all_data', 'USAGE') AS pg_read_all_data,
  pg_has_role('pg_read_all_stats', 'USAGE') AS pg_read_all_stats,
  pg_has_role('pg_signal_backend', 'USAGE') AS pg_signal_backend
FROM pg_roles WHERE rolname = current_user"""


def discover(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what was found of PostgreSQL, and what is to be asked. It reads, and raises nothing for a server that is
    down.
    """
    try:
        with schema.reading(environment) as connection:
            found = list(_of_server(environment, connection, given))
    except (RunbookError, OSError, psycopg.Error) as error:
        found = list(_unknown(environment, f"PostgreSQL could not be asked: {first_line(error)}"))
    yield from found


def first_line(error: Exception) -> str:
    """Give what an error says, without the statement below it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _of_server(environment: Deployment, connection: Connection, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    yield _table(connection)
    yield _admin(environment, connection, str(given.get("database.admin", "")))
    yield from _userlist(environment, connection)
    server = postmaster.found(connection)
    yield _start(environment, server)
    if server:
        cores = psutil.cpu_count() or 1
        jobs = min(cores, RecoveryGoals.model_fields["jobs"].default)
        yield Line("recovery.jobs", jobs, f"PostgreSQL runs on this machine, which has {cores} cores")


def _unknown(environment: Deployment, why: str) -> Iterator[Asked]:
    yield Asked("database.table", f"A table that the API reads and writes. {why}", "payments")
    yield Asked(
        "database.admin", f"Where the URL of an administrator of PostgreSQL is. {ABLE} {why}", _file(environment)
    )
    yield Asked("database.start", f"The command that starts PostgreSQL where it is down. {why}")


def _table(connection: Connection) -> Line | Asked:
    found = schema.of_payments(connection)
    if len(found) == 1:
        ((table, intents),) = found
        has = f"has Stripe's intents ({', '.join(one.name for one in intents)}), a status and an amount"
        return Line("database.table", table.name, f"PostgreSQL's catalogue: {table.name} alone {has}")
    names = ", ".join(table.name for table, _ in found) or "none"
    what = f"A table that the API reads and writes. Those with Stripe's intents, a status and an amount: {names}."
    return Asked("database.table", what, found[0][0].name if found else "payments")


def _admin(environment: Deployment, connection: Connection, named: str) -> Line | Asked:
    """Judge the login that was named, or else that of the file which is asked for, if somebody has put it there."""
    reference, example = named or _file(environment), _file(environment)
    what = f"Where the URL of an administrator of PostgreSQL is, in a file of mode 0600. {ABLE}"
    if not named and not Path(example.removeprefix("file:")).expanduser().exists():
        return Asked("database.admin", f"{what}{_without_secret(connection)}", example)
    who = "was named" if named else "that file is there"
    there = environment.model_copy(update={"database": Database(admin=reference)})
    try:
        same = admin.good(there, admin.api_url(environment))
        if not same:
            return Asked("database.admin", f"{what} {reference} {who}: {same.evidence}. {same.otherwise}", example)
        with admin.connect(there) as superuser:
            lacks = _lacks(superuser, connection)
            name = superuser.info.user
    except (RunbookError, OSError, psycopg.Error) as error:
        return Asked("database.admin", f"{what} {reference} {who}: {first_line(error)}", example)
    judged = f"but lacks {', '.join(lacks)}" if lacks else "and may do what procedures need"
    return Line("database.admin", reference, f"{who}; it logs in as {name} to the API's database, {judged}")


def _lacks(superuser: Connection, api: Connection) -> list[str]:
    may = superuser.execute(_MAY).fetchone()
    assert may is not None
    login = api.execute("SELECT session_user::text AS name").fetchone()
    assert login is not None
    lacks = [] if role.alters(superuser, login["name"]) else ["CREATEROLE with the ADMIN option on the API's role"]
    return lacks + [key for key, has in may.items() if key not in ("role", "rolsuper") and not has]


def _without_secret(connection: Connection) -> str:
    """Say which way to the same server needs no password of ours; nothing if there is none."""
    for words, way in _ways(connection):
        with contextlib.suppress(psycopg.Error):
            given = make_conninfo(**way, connect_timeout="2")
            with psycopg.connect(given, autocommit=True, row_factory=dict_row) as tried:
                if postgres.server(tried) == postgres.server(connection) and not _lacks(tried, connection):
                    return f" {words.format(user=tried.info.user)}"
    return ""


def _ways(connection: Connection) -> Iterator[tuple[str, dict[str, str]]]:
    row = connection.execute("SELECT current_database()::text AS name, inet_server_port() AS port").fetchone()
    assert row is not None
    database, port = str(row["name"]), str(row["port"] or 5432)
    for folder in SOCKETS:
        if Path(folder, f".s.PGSQL.{port}").exists():
            for user in dict.fromkeys((os.environ.get("USER") or "postgres", "postgres")):
                url = f"postgresql://{user}:none@localhost:{port}/{database}?host={folder}"
                words = f"The socket in {folder} lets {{user}} in without a password: put `{url}` there."
                yield words, {"host": folder, "port": port, "user": user, "dbname": database}
    file = Path(os.environ.get("PGSERVICEFILE", SERVICES)).expanduser()
    services = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        services.read(file)
    for name in services.sections():
        words = f"The service {name} of {file} logs in as {{user}} and suffices: put its login there as a URL."
        yield words, {"service": name, "dbname": database}


def _userlist(environment: Deployment, connection: Connection) -> Iterator[Line | Asked]:
    if not isinstance(connection, Lent):
        return
    url = database_url.parameters(admin.api_url(environment))
    file, where = _asked_of_pooler(url), "SHOW CONFIG of PgBouncer"
    if not file:
        file, where = _read_of_pooler(url["port"]), str(POOLER)
    if file:
        yield Line("database.userlist", file, f"auth_file of {where}")
    else:
        what = "DATABASE_URL leads through a pooler. Where it has a file of passwords (auth_file), the path of that."
        yield Asked("database.userlist", what, "/etc/pgbouncer/userlist.txt")


def _asked_of_pooler(url: dict[str, str]) -> str:
    """Ask PgBouncer itself, which answers only to logins that it was told may ask."""
    with contextlib.suppress(psycopg.Error):
        given = make_conninfo(**url | {"dbname": "pgbouncer", "connect_timeout": "2"})
        with contextlib.closing(psycopg.connect(given, autocommit=True)) as console:
            return next((str(row[1] or "") for row in console.execute("SHOW CONFIG") if row[0] == "auth_file"), "")
    return ""


def _read_of_pooler(port: str) -> str:
    """Read the file of the PgBouncer that listens at this port."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        parser.read_string(POOLER.read_text(encoding="utf-8"))
    if parser.get("pgbouncer", "listen_port", fallback="6432") != port:
        return ""
    return parser.get("pgbouncer", "auth_file", fallback="") or ""


def _start(environment: Deployment, server: psutil.Process | None) -> Line | Asked:
    """Find the unit of systemd whose process the server is, and whether this user may start it."""
    what = "The command that starts PostgreSQL where it is down, without asking anything."
    try:
        unit = _unit(environment, server) if server else ""
        if unit and os.getuid() == 0:
            return Line(
                "database.start", f"systemctl start {unit}", f"the server is systemd's {unit}, and you are root"
            )
        command = f"sudo -n systemctl start {unit}"
        if unit and _in_sudoers(environment):
            # Only asked about, not run.
            program.run(["sudo", "-n", "-l", "systemctl", "start", unit], env=environment.variables, seconds=5)
            return Line("database.start", command, f"the server is systemd's {unit}, and sudo lets you start it")
    except CommandFailed:
        unit = ""
    hint = f" Here it is systemd's {unit}: `{command}`, if sudo lets you without a password." if unit else ""
    return Asked("database.start", f"{what}{hint} Leave it out where that is nothing for a procedure.")


def _unit(environment: Deployment, server: psutil.Process) -> str:
    asked = ["systemctl", "show", "--property=Id,MainPID", "--type=service", "--state=active", "*postgres*"]
    said = program.run(asked, env=environment.variables, seconds=5)
    units = [dict(line.split("=", 1) for line in one.splitlines() if "=" in line) for one in said.split("\n\n")]
    mine = [one["Id"] for one in units if one.get("MainPID") == str(server.pid)]
    return shlex.quote(mine[0]) if len(mine) == 1 else ""


def _in_sudoers(environment: Deployment) -> bool:
    groups = program.run(["id", "-nG"], env=environment.variables, seconds=5).split()
    return bool({*groups} & {*SUDOERS})


def _file(environment: Deployment) -> str:
    return f"file:~/.runbook/{environment.name or 'NAME'}/database-url"
