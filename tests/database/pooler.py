"""A PgBouncer in transaction mode before the stand-in's PostgreSQL: a real one, or none where it is not installed."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from opslib.database import database_url
from tests.sandbox.layout import HOST, POSTGRES

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needed = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer: apt-get install pgbouncer")
NOBODY = 65534
SECONDS = 10.0
SESSIONS = 2
"""How many it lends to one login."""


class Pooler:
    """Where it listens, and its file of passwords."""

    def __init__(self, folder: Path) -> None:
        self.users = folder / "users"
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port: int = free.getsockname()[1]

    def url(self, url: str) -> str:
        """Give the same URL by way of it."""
        return url.replace(f":{POSTGRES}/", f":{self.port}/")


@contextlib.contextmanager
def pooler(*urls: str, refuses: bool = True, tls: bool = False) -> Iterator[Pooler]:
    """Run one that knows the logins of these URLs; it `refuses` options, as it does by default, or drops them.

    With `tls` it has a certificate that it has signed itself.
    """
    assert PROGRAM is not None
    logins = [database_url.parameters(url) for url in urls]
    with tempfile.TemporaryDirectory(prefix="pooler-") as name:  # not pytest's own, where only root may go
        folder = Path(name)
        one, file, said = Pooler(folder), folder / "ini", folder / "log"
        one.users.write_text("".join(f'"{each["user"]}" "{each["password"]}"\n' for each in logins))
        file.write_text(
            f"[databases]\n* = host={HOST} port={POSTGRES}\n[pgbouncer]\nlisten_addr={HOST}\nlisten_port={one.port}\n"
            f"unix_socket_dir=\nauth_type=scram-sha-256\nauth_file={one.users}\npool_mode=transaction\n"
            f"default_pool_size={SESSIONS}\n"
            f"ignore_startup_parameters=extra_float_digits{'' if refuses else ',options'}\n"
        )
        made = [folder, file, one.users]
        if tls:
            pair = [folder / "own.crt", folder / "own.key"]
            words = ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"]
            subprocess.run([*words, "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
            with file.open("a") as to:
                to.write(f"client_tls_sslmode=allow\nclient_tls_cert_file={pair[0]}\nclient_tls_key_file={pair[1]}\n")
            made += pair
        root: dict[str, Any] = {}
        if os.getuid() == 0:  # it does not run as root
            root = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            for each in made:
                os.chown(each, NOBODY, NOBODY)
        with said.open("wb") as log:
            process = subprocess.Popen([PROGRAM, file], cwd=folder, stdout=log, stderr=log, **root)
        try:
            until = time.monotonic() + SECONDS
            while not _listens(one.port):
                assert process.poll() is None and time.monotonic() < until, said.read_text()
                time.sleep(0.05)
            yield one
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def sessions(url: str) -> list[dict[str, str]]:
    """Give what is set in each of the sessions that it lends, and what is prepared there."""
    given = make_conninfo(**database_url.parameters(url))
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(SESSIONS):  # all at once: each is in a transaction and so keeps its own
            one = held.enter_context(psycopg.connect(given, prepare_threshold=None))
            rows = one.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()
            rows += one.execute("SELECT 'prepared', count(*)::text FROM pg_prepared_statements").fetchall()
            found.append({str(name): str(value) for name, value in rows})
        return found
