"""Proofs of what an environment's file says of the database: logins, the API's table, PgBouncer's file, migrations."""

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import which

from psycopg import sql

from opslib.database import admin, api_login, database_url, postgres, prisma, prisma_config, role
from opslib.database.postgres import TRANSIENT, LoginFailed
from opslib.database.settings import Database, RecoveryGoals
from opslib.deployment import proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

SERVER = "PostgreSQL"
_TABLE = (
    "SELECT to_regclass(%(name)s) IS NOT NULL AS there, coalesce(has_table_privilege(to_regclass(%(name)s), 'SELECT')"
    " AND has_table_privilege(to_regclass(%(name)s), 'UPDATE'), false) AS may"
)
_STATISTICS = "SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS reads"


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. What a login may do is asked, not tried."""
    yield Proof(f"secrets.{admin.KEY}", SERVER, partial(_login, environment))
    if goals := environment.find(RecoveryGoals):
        yield Proof("recovery.prisma", "the disk", partial(_prisma, environment, goals))
    if (database := environment.find(Database)) is None:
        return
    yield Proof("database.admin", SERVER, partial(_admin, environment, database))
    yield Proof("database.table", SERVER, partial(_table, environment, database))
    if database.userlist:
        yield Proof("database.userlist", "the disk", partial(_userlist, environment, database.userlist))
    if database.start:
        yield Proof("database.start", "the disk", partial(_start, environment, database.start))


def _login(environment: Deployment) -> Answer:
    url = admin.api_url(environment)
    found = api_login.ask(url)
    if found.unchecked:
        return Answer(False, f"the API would refuse the server's certificate: {found.unchecked}", "Renew it.")
    if found.cause == "none":
        return Answer(True, f"{database_url.user(url)} logs in at {found.server}")
    reached = found.cause in ("url", "tls", "password", "no-login", "no-entry", "no-database")
    return Answer(False if reached else None, f"nobody logs in at {found.server} with it: {found.said}", found.remedy)


def _admin(environment: Deployment, database: Database) -> Answer:
    given = proof.reference(database.admin, admin.ADMINISTRATOR)
    if not given:
        return given
    url = admin.api_url(environment)
    user = database_url.user(url)
    correct = f"Correct `database.admin` of parameters/{environment.name}.yaml."
    try:
        with admin.connect(environment, within=0) as connection:
            may = role.may(connection, user, role.twin(user))
            statistics = connection.execute(_STATISTICS).fetchone()
            ours, name = postgres.server(connection), connection.info.user
    except (LoginFailed, database_url.UrlError) as error:
        passes = isinstance(error, LoginFailed) and error.failure in TRANSIENT
        return Answer(None if passes else False, str(error), correct)
    with postgres.connect(url) as connection:
        if postgres.server(connection) != ours:
            return Answer(False, "it leads to another server or database than the API's URL", correct)
    if not may:
        denied = ", ".join(one for one, permitted in may.evidence.items() if not permitted)
        return Answer(False, f"{name} may not change the password of {denied}", may.otherwise)
    if not (statistics and statistics["reads"]):
        return Answer(False, f"{name} may not see what sessions do", f"GRANT pg_read_all_stats TO {name}")
    return Answer(True, f"{name} logs in to the API's database, and may change its role")


def _table(environment: Deployment, database: Database) -> Answer:
    url = admin.api_url(environment)
    with postgres.connect(url) as connection:
        name = sql.Identifier(database.table).as_string(connection)
        found = connection.execute(_TABLE, {"name": name}).fetchone()
    where = f"{database.table} in the schema {database_url.schema(url)}"
    if not found or not found["there"]:
        return Answer(False, f"there is no {where}", "Name a table that the API reads and writes.")
    if not found["may"]:
        mend = "Name a table that the API reads and writes, or grant it that."
        return Answer(False, f"{database_url.user(url)} may not read and write {where}", mend)
    return Answer(True, f"{database_url.user(url)} may read and write it")


def _userlist(environment: Deployment, file: Path) -> Answer:
    auth_file = "Name PgBouncer's auth_file, or leave it out."
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", "not UTF-8")
        return Answer(False, f"{located(file)} cannot be read ({said})", auth_file)
    user = database_url.user(admin.api_url(environment))
    if user not in {line.split('"')[1] for line in lines if line.startswith('"')}:
        return Answer(False, f"{located(file)} does not name {user}", auth_file)
    return Answer(True, f"it names {user}")


def _start(environment: Deployment, command: str) -> Answer:
    words, missing = shlex.split(command), list[str]()
    for word in words:
        if not word.startswith("-"):
            missing += [] if which(word, path=environment.variables["PATH"]) else [word]
            if word != "sudo":
                break
    if missing or not words:
        return Answer(False, f"{', '.join(missing) or 'no program'} is not there", "Correct it, or leave it out.")
    return Answer(True, f"{command.split()[0]} is there; nothing was started")


def _prisma(environment: Deployment, goals: RecoveryGoals) -> Answer:
    if not environment.api.release.is_dir():
        raise RunbookError(f"{located(environment.api.release)} is no folder")
    place = prisma_config.schema(environment.api.release / goals.prisma)
    if not place:
        mend = "Name the folder, below a release, in which `npx prisma migrate` runs."
        return Answer(False, f"{goals.prisma} has no prisma/schema.prisma", mend)
    return Answer(True, f"{goals.prisma} has {place}, and {len(prisma.released(environment))} migrations")
