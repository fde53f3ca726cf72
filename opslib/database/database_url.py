"""A database URL: what Prisma reads, as parameters of libpq, and with another login in an otherwise untouched text.

libpq refuses a URL with a parameter that only Prisma knows (`schema`, `connection_limit`, `pgbouncer` …), so none is
ever handed to it whole. Prisma's parameters: prisma.io/docs/orm/overview/databases/postgresql.
"""

import re
from urllib.parse import parse_qsl, quote, unquote

from opslib.runbook.errors import RunbookError

_URL = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?:(?P<login>[^/?#]*)@)?"
    r"(?P<rest>(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@/?#:,\[\]]*)(?::(?P<port>\d+))?"
    r"(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?)"
)
_SAME = {"application_name", "channel_binding", "connect_timeout", "host", "options", "sslmode", "sslrootcert"}
"""The parameters that mean the same to Prisma or its drivers and to libpq."""


class UrlError(RunbookError, ValueError):
    """A text that is no URL of a PostgreSQL database; the message never repeats it."""


def parameters(url: str, name: str = "DATABASE_URL") -> dict[str, str]:
    """Give the parameters of libpq: host, port, dbname, user, password and what else it understands.

    Raise UrlError, which says `name` in place of the URL.
    """
    match = _match(url, name)
    user, _, password = (match["login"] or "").partition(":")
    given = dict(parse_qsl(match["query"] or ""))
    try:
        found = {
            "host": unquote(match["host"].strip("[]"), errors="strict"),
            "port": match["port"] or "5432",
            "dbname": unquote(match["database"] or "", errors="strict"),
            "user": unquote(user, errors="strict"),
            "password": unquote(password, errors="strict"),
        }
    except UnicodeDecodeError:
        raise UrlError(
            f"{name} has percent-encoded bytes that are not UTF-8; encode its login and database anew"
        ) from None
    found |= {key: value for key, value in given.items() if key in _SAME and value}
    if "sslcert" in given:  # to Prisma the server's certificate, to libpq the client's
        found["sslrootcert"] = given["sslcert"]
    if missing := [key for key in ("host", "dbname", "user", "password") if not found[key]]:
        raise UrlError(
            f"{name} has no {' and no '.join(missing)}; expected postgresql://user:password@host:port/database"
        )
    return found


def user(url: str, name: str = "DATABASE_URL") -> str:
    """Give the role that logs in."""
    return parameters(url, name)["user"]


def schema(url: str) -> str:
    """Give the schema that Prisma works in."""
    return dict(parse_qsl(_match(url, "DATABASE_URL")["query"] or "")).get("schema") or "public"


def with_login(url: str, user: str, password: str) -> str:
    """Give the same URL for another login; whatever stands behind the login stays byte for byte."""
    match = _match(url, "DATABASE_URL")
    return f"{match['scheme']}{quote(user, safe='')}:{quote(password, safe='')}@{match['rest']}"


def with_database(url: str, name: str) -> str:
    """Give the same URL for another database of the same server; all else stays byte for byte."""
    match = _match(url, "DATABASE_URL")
    start, end = match.span("database")
    if start < 0:  # no path at all
        start = end = match.end("port") if match["port"] else match.end("host")
        return f"{url[:start]}/{quote(name, safe='')}{url[end:]}"
    return f"{url[:start]}{quote(name, safe='')}{url[end:]}"


def _match(url: str, name: str) -> re.Match[str]:
    if match := _URL.fullmatch(url):
        return match
    raise UrlError(
        f"{name} is no URL of one PostgreSQL database; expected postgresql://user:password@host:port/database with "
        "every character of the password but letters, digits and -._~ percent-encoded"
    )
