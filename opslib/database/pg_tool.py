"""A tool of PostgreSQL, such as pg_dump: its version, its login by environment variables, and what it said."""

import re
from shutil import which
from typing import IO

from opslib.database import database_url
from opslib.deployment.deployment import Deployment
from opslib.runbook import program as programs
from opslib.runbook.errors import CommandFailed

_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
"""libpq's own variables: postgresql.org/docs/current/libpq-envars.html."""


def variables(environment: Deployment, url: str) -> dict[str, str]:
    """Give the environment variables for a tool that logs in by this URL, and speaks English."""
    given = database_url.parameters(url)
    login = {name: given[key] for key, name in _VARIABLES.items() if key in given}
    return {**environment.variables, "LC_ALL": "C", **login}


def major(environment: Deployment, name: str) -> int:
    """Give the major version of a tool. Raise CommandFailed if it is not installed."""
    said = programs.run([name, "--version"], env=environment.variables)
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    if not found:
        raise CommandFailed(f"`{name} --version` said {said.strip()[:80]!r}, expected a version of PostgreSQL")
    return int(found[1])


def program(environment: Deployment, name: str) -> str:
    """Give the path of a tool. Raise CommandFailed if it is not installed."""
    found = which(name, path=environment.variables["PATH"])
    if found is None:
        raise CommandFailed(f"{name} is not installed, or not in the environment's `tools` folder or PATH")
    return found


def judge(name: str, code: int, said: IO[bytes]) -> list[str]:
    """Give the warnings of a tool that has ended. Raise CommandFailed if it failed, or said that something did."""
    said.seek(0)
    text = said.read(1 << 16).decode("utf-8", "replace")
    lines = text.strip().splitlines()
    wrong = [line for line in lines if "error:" in line or "FATAL:" in line]
    if code or wrong:
        first = (wrong or lines[-1:] or ["it said nothing"])[0]
        raise CommandFailed(f"{name} ended with exit code {code}: {first}", code, text)
    return lines
