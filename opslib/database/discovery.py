"""What an environment's file says of PostgreSQL, as far as the API's login, this machine and an administrator tell."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg

from opslib.database import admin, administrator, database_url, pooler, postmaster, schema, service
from opslib.database.postgres import Connection, Lent
from opslib.database.settings import Database, RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line, private
from opslib.runbook.errors import RunbookError, first_line

TABLE = "A table that the API reads and writes, on which a new login is tried."
ADMIN = f"Where the URL of an administrator of PostgreSQL is, in a file of mode 0600: {administrator.NEEDS}."
USERLIST = "DATABASE_URL leads through a pooler. Where that has a file of passwords (auth_file), its path."
START = "The command that starts PostgreSQL where it is down, without asking anything; nothing if that is for a person."


def discover(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what was found of PostgreSQL, and what is to be asked.

    It reads, and raises nothing for a server that does not answer.
    """
    try:
        with schema.reading(environment) as connection:
            found = list(_of_server(environment, connection, str(given.get("database.admin", ""))))
    except (RunbookError, OSError, psycopg.Error) as error:
        found = [
            Asked("database.table", f"{TABLE} PostgreSQL could not be asked: {first_line(error)}", "payments"),
            Asked("database.admin", f"{ADMIN} It could not be tried.", f"file:{private(environment, 'database-url')}"),
            Asked("database.start", START),
        ]
    yield from found


def _of_server(environment: Deployment, connection: Connection, named: str) -> Iterator[Line | Asked]:
    yield _table(connection)
    yield _admin(environment, connection, named)
    if isinstance(connection, Lent):
        yield _userlist(environment, connection)
    server = postmaster.found(connection)
    yield _start(environment, server)
    if server:
        cores = psutil.cpu_count() or 1
        jobs = min(cores, RecoveryGoals.model_fields["jobs"].default)
        yield Line("recovery.jobs", jobs, f"PostgreSQL runs on this machine, which has {cores} cores")


def _table(connection: Connection) -> Line | Asked:
    found = schema.of_payments(connection)
    if len(found) == 1:
        ((table, intents),) = found
        has = f"has Stripe's intents ({', '.join(one.name for one in intents)}), a status and an amount"
        return Line("database.table", table.name, f"{schema.SOURCE}: {table.name} alone {has}")
    names = ", ".join(table.name for table, _ in found) or "none"
    what = f"{TABLE} Those with Stripe's intents, a status and an amount: {names}."
    return Asked("database.table", what, found[0][0].name if found else "payments")


def _admin(environment: Deployment, connection: Connection, named: str) -> Line | Asked:
    """Judge the login that was named, or else that of the file which is asked for, if somebody has put it there."""
    example = f"file:{private(environment, 'database-url')}"
    if not named and not Path(example.removeprefix("file:")).expanduser().exists():
        return Asked("database.admin", f"{ADMIN} {administrator.without_secret(connection)}".rstrip(), example)
    reference, who = named or example, "you have named it" if named else "it lies there"
    there = environment.model_copy(update={"database": Database(admin=reference)})
    try:
        same = admin.good(there, admin.api_url(environment))
        if not same:
            return Asked("database.admin", f"{ADMIN} {reference}: {same.evidence}. {same.otherwise}", example)
        with admin.connect(there) as superuser:
            lacks, name = administrator.lacks(superuser, connection), superuser.info.user
    except (RunbookError, OSError, psycopg.Error) as error:
        return Asked("database.admin", f"{ADMIN} {reference}: {first_line(error)}", example)
    judged = f"but lacks {', '.join(lacks)}" if lacks else "and may do what procedures need"
    return Line("database.admin", reference, f"{who}; it logs in as {name} to the API's database, {judged}")


def _userlist(environment: Deployment, lent: Lent) -> Line | Asked:
    url = database_url.parameters(admin.api_url(environment))
    file, source = pooler.userlist(url, here=admin.here(lent))
    if file:
        return Line("database.userlist", file, f"auth_file of {source}")
    return Asked("database.userlist", USERLIST, "/etc/pgbouncer/userlist.txt")


def _start(environment: Deployment, server: psutil.Process | None) -> Line | Asked:
    unit = service.unit(environment, server) if server else ""
    if unit and (command := service.start(environment, unit)):
        return Line("database.start", command, f"the server is systemd's {unit}, and you may start that")
    hint = f" Here the server is systemd's {unit}." if unit else ""
    return Asked("database.start", f"{START}{hint}")
