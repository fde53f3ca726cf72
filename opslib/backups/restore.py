"""A restore: an archive put into a database of its own, beside whatever is there, and compared with its manifest.

The administrator restores it, with owners, rights and all that only a superuser may make, as they are in the archive.
The code of the API's role must not become the administrator's by that: whoever may make a function for the API could
else act as a superuser. An index, a materialized view and a foreign key call functions as their table's owner, who may
do nothing else meanwhile (SECURITY_RESTRICTED_OPERATION), and triggers and rules are made when all rows are there. But
COPY checks constraints, domains and generated columns, and ADD CONSTRAINT those that were kept apart, as whoever has
logged in; SET ROLE is no wall, for a function may RESET it. So the rows of the API's tables, and such constraints, are
restored by the API's own login. What is left of others' code is named by remainder.py.
"""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Collection
from functools import cached_property, partial
from pathlib import Path

from psycopg.sql import SQL, Composed, Literal

from opslib.backups import catalogue, manifest
from opslib.backups.manifest import Extension, Manifest
from opslib.backups.store import PART, removed
from opslib.database import admin, database_url, pg_tool, postgres
from opslib.database.postgres import Connection, Lent, LoginFailed
from opslib.deployment.deployment import Deployment
from opslib.runbook import program, progress
from opslib.runbook.act import Act, act, sql
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located, root

JOBS = 2
POLL = 0.5  # seconds
LIST_SECONDS = 600
QUICK = "-c maintenance_work_mem=256MB -c synchronous_commit=off"
"""Settings of the sessions that restore, for each job: nobody needs the database yet, and it can be restored anew."""
THERE = ("public", "pg_catalog")
"""Schemas that a database has from the beginning."""
_ROWS = re.compile(r"\d+; \d+ \d+ (TABLE DATA (?P<rows>.*)|CHECK CONSTRAINT (?P<check>.*))\n?")


def acts(environment: Deployment, archive: Path, about: Manifest, name: str, *, jobs: int = JOBS) -> list[Act]:
    """Make the acts that restore an archive in pg_dump's custom format into a database that the first of them creates.

    What fails leaves the database to be dropped by whoever asked.
    """
    maintenance, within = (partial(admin.connect, environment, database) for database in (admin.MAINTENANCE, name))
    to, own, rest = [f"--dbname={name}", "--exit-on-error"], _beside(archive, "own"), _beside(archive, "rest")
    # A subscription of the copy would fetch what the live one is to get, and keep the copy from being dropped.
    shape = ["pg_restore", *to, "--section=pre-data", "--no-subscriptions", located(archive)]
    quick = [*to, f"--jobs={jobs}"]
    ours = ["pg_restore", *quick, "--no-owner", "--no-privileges", f"--use-list={located(own)}", located(archive)]
    others = ["pg_restore", *quick, "--section=data", "--section=post-data", "--no-subscriptions"]
    others += [f"--use-list={located(rest)}", located(archive)]
    chosen = _Chosen(environment, name)
    as_admin, as_api = partial(admin.url, environment, name), partial(_direct, environment, name)

    def restored(command: list[str], login: Callable[[], str], *said: str) -> Act:
        shown = f"PGOPTIONS={shlex.quote(QUICK)} {shlex.join(command)}"
        return act(shown, *said, run=lambda: _watched(environment, command, about, name, login()))

    return [
        sql(
            maintenance,
            "CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 {like}",
            name=name,
            owner=about.role,
            like=_like(about),
        ),
        *_extensions(within, about),
        restored(shape, as_admin),
        _listed(environment, archive, own, f"only the tables of {about.role}", chosen),
        restored(ours, as_api, "logged in as the API, whose code must not run as the administrator"),
        _listed(environment, archive, rest, "all else", lambda line: not chosen(line)),
        restored(others, as_admin),
    ]


def _extensions(within: Callable[[], Connection], about: Manifest) -> list[Act]:
    """Make the acts that make those extensions which are not a superuser's own, and what they need, by their owners.

    An archive does not say who owns an extension. Those of a schema that the archive makes are left to it.
    """
    last = max((place for place, one in enumerate(about.extensions) if one.owner), default=-1)
    made = [one for one in about.extensions[: last + 1] if one.schema in THERE]
    create = "CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema}"
    return [sql(within, *(["SET ROLE {owner}"] if one.owner else []), create, **_names(one)) for one in made]


def _names(one: Extension) -> dict[str, str]:
    return {"name": one.name, "schema": one.schema, "owner": one.owner}


class _Chosen:
    """Tells the lines of an archive's list of contents that the API's login restores: rows, and checks of them."""

    def __init__(self, environment: Deployment, name: str) -> None:
        self._environment, self._name = environment, name

    def __call__(self, line: str) -> bool:
        match = _ROWS.fullmatch(line)
        if match is None:
            return False
        rows, check = match["rows"], match["check"]
        return rows in self._own if rows else any(check.startswith(f"{table} ") for table in self._tables)

    @cached_property
    def _own(self) -> dict[str, str]:
        """The API's tables, as a line about its rows names them: schema, name, owner."""
        with postgres.connect(_direct(self._environment, self._name), within=5) as api:
            rows = api.execute(
                "SELECT nspname || ' ' || relname AS name, pg_get_userbyid(relowner)::text AS owner"
                " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r'"
                " AND pg_has_role(relowner, 'USAGE') AND has_schema_privilege(n.oid, 'USAGE')"
                " AND has_table_privilege(c.oid, 'INSERT') AND nspname !~ '^(pg_|information_schema$)'"
            ).fetchall()
        return {f"{row['name']} {row['owner']}".replace("\n", " "): row["name"].replace("\n", " ") for row in rows}

    @property
    def _tables(self) -> Collection[str]:
        return self._own.values()


def beside(environment: Deployment, name: str) -> str:
    """Give the URL of the API's login for a database where `database.admin` leads, which is past any pooler."""
    known = admin.api_url(environment)
    given = database_url.parameters(known)
    found = database_url.with_login(admin.url(environment, name), given["user"], given["password"])
    return database_url.with_schema(found, database_url.schema(known))


def _direct(environment: Deployment, name: str) -> str:
    """Give a URL by which the API's role logs in without a pooler, where what pg_restore sets would stay."""
    said = ""
    for url in (beside(environment, name), database_url.with_database(admin.api_url(environment), name)):
        mask.add(admin.KEY, url)
        try:
            with postgres.connect(url, within=5) as connection:
                if not isinstance(connection, Lent):
                    return url
                said = said or "its URL leads through a pooler"
        except LoginFailed as error:
            said = said or str(error)
    raise RunbookError(
        f"the API's login does not reach {name}, whose rows only it may restore: {said}. Let it log in where "
        "`database.admin` leads, and run again"
    )


def cleared(archive: Path) -> list[Act]:
    """Make the acts that remove an archive which was fetched, and the lists of its contents; well if there is none."""
    return [removed(file) for file in (archive, _beside(archive, "own"), _beside(archive, "rest"))]


def missing_roles(connection: Connection, about: Manifest) -> list[str]:
    """Give the roles of the manifest that this server does not have."""
    found = {row["rolname"] for row in connection.execute("SELECT rolname::text FROM pg_roles").fetchall()}
    return [role for role in about.roles if role not in found]


def compare(environment: Deployment, about: Manifest, name: str) -> Answer:
    """Whether a restored database has the rows that the manifest says, table by table, and every object as it was.

    Another version of the server may describe the same in other words: there only the rows are compared.
    """
    with admin.connect(environment, name) as connection:
        found = manifest.differences(about, connection)
        if not found or about.catalogue is None or admin.major(connection) != int(about.server.split(".")[0]):
            return found
        wrong = catalogue.differences(about.catalogue, catalogue.read(connection))
    return Answer(False, wrong) if wrong else found


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


def _watched(environment: Deployment, words: list[str], about: Manifest, name: str, url: str) -> None:
    """Run pg_restore by this login to its end, and say meanwhile how many rows are there."""
    env = pg_tool.variables(environment, url)
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
