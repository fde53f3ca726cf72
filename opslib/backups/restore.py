"""A restore: an archive put into a database of its own, beside whatever is there, and compared with its manifest."""

import re
import subprocess
import tempfile
from pathlib import Path

from psycopg import sql

from opslib.backups import manifest
from opslib.backups.manifest import Manifest
from opslib.backups.store import PART
from opslib.database import admin, pg_tool
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.runbook import program, progress
from opslib.runbook.errors import RunbookError

JOBS = 2
POLL = 0.5  # seconds
QUICK = "-c maintenance_work_mem=256MB -c synchronous_commit=off"
"""Settings of the sessions that restore, for each job: nobody needs the database yet, and it can be restored anew."""
_RIGHTS = re.compile(r"\d+; \d+ \d+ (DEFAULT )?ACL ")


def create(connection: Connection, about: Manifest, name: str) -> None:
    """Create an empty database like the one of the manifest. Raise RunbookError if there is one of that name."""
    if admin.exists(connection, name):
        raise RunbookError(f"there is a database {name} already, and nothing is restored over another: drop it first")
    if missing := missing_roles(connection, about):
        raise RunbookError(f"the server has no role {', '.join(missing)}; create it first, as it was")
    connection.execute(_create(about, name))


def missing_roles(connection: Connection, about: Manifest) -> list[str]:
    """Give the roles of the manifest that this server does not have."""
    found = {row["rolname"] for row in connection.execute("SELECT rolname::text FROM pg_roles").fetchall()}
    return [role for role in about.roles if role not in found]


def arguments(about: Manifest, name: str, jobs: int = JOBS) -> list[str]:
    """Give the command that restores, less the list of what and the archive."""
    return [
        *("pg_restore", f"--dbname={name}", f"--role={about.role}", f"--jobs={jobs}"),
        *("--no-owner", "--no-privileges", "--exit-on-error"),
    ]


def restore(environment: Deployment, archive: Path, about: Manifest, name: str, *, jobs: int = JOBS) -> None:
    """Restore an archive in pg_dump's custom format into a database that this creates, owned by the manifest's role.

    Extensions are made by the administrator, who may; all else by the role. What fails leaves the database to be
    dropped by whoever asked. Raise RunbookError or CommandFailed.
    """
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        create(superuser, about, name)
    with admin.connect(environment, name) as connection:
        made = _extensions(connection, about)
        contents = archive.with_name(f"{archive.name}.list{PART}")
        try:
            contents.write_text(_contents(environment, archive, made), encoding="utf-8")
            chosen = [*arguments(about, name, jobs), f"--use-list={contents}", str(archive)]
            _run(environment, chosen, connection, about, name)
        finally:
            contents.unlink(missing_ok=True)


def grant(environment: Deployment, archive: Path, name: str) -> None:
    """Give the roles in a restored database the rights that they had in it, which `restore` leaves out.

    Apart, because these statements are the administrator's: the rights may be on what an extension owns.
    """
    listed = program.run(["pg_restore", "--list", str(archive)], env=environment.variables, seconds=600)
    rights = [line for line in listed.splitlines(keepends=True) if _RIGHTS.match(line)]
    if not rights:
        return
    with tempfile.NamedTemporaryFile("w", prefix="runbook-list-", suffix=".txt") as contents:
        contents.writelines(rights)
        contents.flush()
        given = ["pg_restore", f"--dbname={name}", "--no-owner", "--exit-on-error", f"--use-list={contents.name}"]
        env = pg_tool.variables(environment, admin.url(environment, name))
        program.run([*given, str(archive)], env=env, seconds=600)


def compare(environment: Deployment, about: Manifest, name: str) -> tuple[bool, list[dict[str, str]]]:
    """Whether a restored database has the rows that the manifest says, table by table, and a row of evidence each."""
    with admin.connect(environment, name) as connection:
        return manifest.differences(about, connection)


def drop(environment: Deployment, name: str) -> None:
    """Drop a restored database with the sessions that it has; well if there is none."""
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        admin.drop(superuser, name)


def _create(about: Manifest, name: str) -> sql.Composed:
    settings = {"ENCODING": about.encoding, "LC_COLLATE": about.collate, "LC_CTYPE": about.ctype}
    provider = {"i": "icu", "b": "builtin"}.get(about.provider or "")
    if provider and about.locale:
        settings |= {"LOCALE_PROVIDER": provider, f"{'ICU' if provider == 'icu' else 'BUILTIN'}_LOCALE": about.locale}
    parts = [sql.SQL(f"{key} {{}}").format(sql.Literal(value)) for key, value in settings.items()]
    head = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ")
    return head.format(sql.Identifier(name), sql.Identifier(about.role)) + sql.SQL(" ").join(parts)


def _extensions(connection: Connection, about: Manifest) -> set[str]:
    """Create the extensions, and give the schemas that were made for them."""
    made = set()
    for one in about.extensions:
        if one.schema not in ("public", "pg_catalog"):
            schema, role = sql.Identifier(one.schema), sql.Identifier(about.role)
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(schema, role))
            made.add(one.schema)
        parts = sql.Identifier(one.name), sql.Identifier(one.schema)
        connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}").format(*parts))
    return made


def _contents(environment: Deployment, archive: Path, made: set[str]) -> str:
    """Give the archive's list of contents, less what is there already."""
    listed = program.run(["pg_restore", "--list", str(archive)], env=environment.variables, seconds=600)
    schemas = "|".join(map(re.escape, made)) or r"\n"
    there = re.compile(rf"\d+; \d+ \d+ (EXTENSION - |COMMENT - EXTENSION |SCHEMA - ({schemas}) ).*")
    return "".join(line for line in listed.splitlines(keepends=True) if not there.fullmatch(line.rstrip("\n")))


def _run(
    environment: Deployment, chosen: list[str], connection: Connection, about: Manifest, name: str
) -> None:  # fmt: skip
    """Run pg_restore to its end, and say meanwhile how many rows are there."""
    env = pg_tool.variables(environment, admin.url(environment, name))
    env["PGOPTIONS"] = f"{env.get('PGOPTIONS', '')} {QUICK}".lstrip()
    executable = pg_tool.program(environment, chosen[0])
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [executable, *chosen[1:]], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            while process.poll() is None:
                progress.report(f"restored {_rows(connection):,} of {about.rows:,} rows")
                _wait(process)
        finally:
            process.kill()
            process.wait()
        pg_tool.judge("pg_restore", process.returncode, said)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=POLL)
    except subprocess.TimeoutExpired:
        return


def _rows(connection: Connection) -> int:
    found = connection.execute(
        "SELECT coalesce((SELECT sum(n_tup_ins) FROM pg_stat_user_tables), 0)"
        " + coalesce((SELECT sum(tuples_processed) FROM pg_stat_progress_copy"
        " WHERE datname = current_database()), 0) AS rows"
    ).fetchone()
    return int(found["rows"]) if found else 0
