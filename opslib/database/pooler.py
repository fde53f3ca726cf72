"""PgBouncer between the API and PostgreSQL: the file of passwords that it has (auth_file)."""

import configparser
import contextlib
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

SETTINGS = Path("/etc/pgbouncer/pgbouncer.ini")
PORT = "6432"
"""Where it listens unless it was told otherwise."""


def userlist(url: Mapping[str, str], *, here: bool) -> tuple[str, str]:
    """Give the file of the pooler that these parameters of a URL lead to, and who says so; nothing if nobody does.

    Only of one that is `here` are the settings to be read.
    """
    if file := _said(url):
        return file, "SHOW CONFIG of PgBouncer"
    file = _written(url["port"]) if here else ""
    return file, str(SETTINGS)


def _said(url: Mapping[str, str]) -> str:
    """Ask PgBouncer itself, which answers only to logins that may ask it."""
    with contextlib.suppress(psycopg.Error):
        given = make_conninfo(**{**url, "dbname": "pgbouncer", "connect_timeout": "2"})
        with contextlib.closing(psycopg.connect(given, autocommit=True)) as console:
            return next((str(row[1] or "") for row in console.execute("SHOW CONFIG") if row[0] == "auth_file"), "")
    return ""


def _written(port: str) -> str:
    """Read the settings of the PgBouncer of this machine, if it listens at this port."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        parser.read_string(SETTINGS.read_text(encoding="utf-8"))
    here = parser.get("pgbouncer", "listen_port", fallback=PORT) == port
    return (parser.get("pgbouncer", "auth_file", fallback="") or "") if here else ""
