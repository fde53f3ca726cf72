"""A restore: an archive put into a database of its own, beside whatever is there, and compared with its manifest."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from psycopg.sql import SQL, Composed, Literal

from opslib.backups import manifest
from opslib.backups.manifest import Manifest
from opslib.backups.store import PART, removed
from opslib.database import admin, pg_tool
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook import program, progress
from opslib.runbook.act import Act, act, sql
from opslib.runbook.answer import Answer
from opslib.runbook.procedure import located, root

JOBS = 2
POLL = 0.5  # seconds
LIST_SECONDS, RIGHTS_SECONDS = 600, 600
QUICK = "-c maintenance_work_mem=256MB -c synchronous_commit=off"
"""Settings of the sessions that restore, for each job: nobody needs the database yet, and it can be restored anew."""
_RIGHTS = re.compile(r"\d+; \d+ \d+ (DEFAULT )?ACL ")


def acts(environment: Deployment, archive: Path, about: Manifest, name: str, *, jobs: int = JOBS) -> list[Act]:
    """Make the acts that restore an archive in pg_dump's custom format into a database that the first of them creates.

    Extensions are made by the administrator, who may; all else by the role of the manifest, which owns it. What fails
    leaves the database to be dropped by whoever asked.
    """
    maintenance, within = (partial(admin.connect, environment, database) for database in (admin.MAINTENANCE, name))
    apart = sorted({one.schema for one in about.extensions} - {"public", "pg_catalog"})
    contents = _beside(archive, "list")
    command = [
        *("pg_restore", f"--dbname={name}", f"--role={about.role}", f"--jobs={jobs}"),
        *("--no-owner", "--no-privileges", "--exit-on-error"),
        *(f"--use-list={located(contents)}", located(archive)),
    ]
    return [
        sql(
            maintenance,
            "CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 {like}",
            name=name,
            owner=about.role,
            like=_like(about),
        ),
        *(
            sql(within, "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}", schema=schema, role=about.role)
            for schema in apart
        ),
        *(
            sql(within, "CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema}", name=one.name, schema=one.schema)
            for one in about.extensions
        ),
        _listed(environment, archive, contents, "less the extensions and their schemas", _missing(about, apart)),
        act(
            f"PGOPTIONS={shlex.quote(QUICK)} {shlex.join(command)}",
            run=lambda: _watched(environment, command, about, name),
        ),
    ]


def rights(environment: Deployment, archive: Path, name: str) -> list[Act]:
    """Make the acts that give the roles in a restored database the rights that they had in it, which `acts` leave out.

    Apart, because these statements are the administrator's: the rights may be on what an extension owns.
    """
    contents = _beside(archive, "rights")
    command = ["pg_restore", f"--dbname={name}", "--no-owner", "--exit-on-error"]
    command += [f"--use-list={located(contents)}", located(archive)]

    def run() -> None:
        env = pg_tool.variables(environment, admin.url(environment, name))
        program.run(command, env=env, seconds=RIGHTS_SECONDS, cwd=root())

    return [
        _listed(environment, archive, contents, "only the rights (ACL)", lambda line: bool(_RIGHTS.match(line))),
        act(shlex.join(command), run=run),
    ]


def cleared(archive: Path) -> list[Act]:
    """Make the acts that remove an archive which was fetched, and the lists of its contents; well if there is none."""
    return [removed(file) for file in (archive, _beside(archive, "list"), _beside(archive, "rights"))]


def missing_roles(connection: Connection, about: Manifest) -> list[str]:
    """Give the roles of the manifest that this server does not have."""
    found = {row["rolname"] for row in connection.execute("SELECT rolname::text FROM pg_roles").fetchall()}
    return [role for role in about.roles if role not in found]


def compare(environment: Deployment, about: Manifest, name: str) -> Answer:
    """Whether a restored database has the rows that the manifest says, table by table."""
    with admin.connect(environment, name) as connection:
        return manifest.differences(about, connection)


def drop(environment: Deployment, name: str) -> Act:
    """Make the act that drops a restored database with the sessions that it has; well if there is none."""
    maintenance = partial(admin.connect, environment, admin.MAINTENANCE)
    return sql(maintenance, "DROP DATABASE IF EXISTS {name} WITH (FORCE)", name=name)


def _like(about: Manifest) -> Composed:
    settings = {"ENCODING": about.encoding, "LC_COLLATE": about.collate, "LC_CTYPE": about.ctype}
    provider = {"i": "icu", "b": "builtin"}.get(about.provider or "")
    if provider and about.locale:
        settings |= {"LOCALE_PROVIDER": provider, f"{'ICU' if provider == 'icu' else 'BUILTIN'}_LOCALE": about.locale}
    return SQL(" ").join([SQL(f"{key} {{}}").format(Literal(value)) for key, value in settings.items()])


def _missing(about: Manifest, schemas: Sequence[str]) -> Callable[[str], bool]:
    """Tell the lines of a list of contents from those that say what the administrator has made already."""
    names = [[re.escape(one.name) for one in about.extensions], [re.escape(one) for one in schemas]]
    extension, schema = ("|".join(found) or r"\n" for found in names)
    there = re.compile(
        rf"\d+; \d+ \d+ (EXTENSION - ({extension}) |COMMENT - EXTENSION ({extension}) |SCHEMA - ({schema}) ).*\n?"
    )
    return lambda line: there.fullmatch(line) is None


def _beside(archive: Path, what: str) -> Path:
    return archive.with_name(f"{archive.name}.{what}{PART}")


def _listed(
    environment: Deployment, archive: Path, contents: Path, says: str, chosen: Callable[[str], bool]
) -> Act:  # fmt: skip
    """Make the act that writes the chosen lines of an archive's list of contents, from which pg_restore works."""
    command = ["pg_restore", "--list", located(archive)]

    def write() -> None:
        listed = program.run(command, env=environment.variables, seconds=LIST_SECONDS, cwd=root())
        contents.write_text("".join(filter(chosen, listed.splitlines(keepends=True))), encoding="utf-8")

    return act(f"{shlex.join(command)} > {shlex.quote(located(contents))}, {says}", run=write)


def _watched(environment: Deployment, words: list[str], about: Manifest, name: str) -> None:
    """Run pg_restore to its end, and say meanwhile how many rows are there."""
    env = pg_tool.variables(environment, admin.url(environment, name))
    env["PGOPTIONS"] = f"{env.get('PGOPTIONS', '')} {QUICK}".lstrip()
    executable = pg_tool.program(environment, words[0])
    with tempfile.TemporaryFile() as said, admin.connect(environment, name) as connection:
        process = subprocess.Popen(
            [executable, *words[1:]],
            env=env,
            cwd=root(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
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
