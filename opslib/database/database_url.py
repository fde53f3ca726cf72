"""A database URL: what Prisma reads, as parameters of libpq, and with another login in an otherwise untouched text.

libpq refuses a URL with a parameter that only Prisma knows (`schema`, `connection_limit`, `pgbouncer` …), so none is
ever handed to it whole. Prisma's parameters: prisma.io/docs/orm/overview/databases/postgresql; those of node-postgres,
which an adapter of Prisma's logs in with: the npm package pg-connection-string.
"""

import re
import ssl
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote

from opslib.runbook.errors import RunbookError

_URL = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?:(?P<login>[^/?#]*)@)?"
    r"(?P<rest>(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@/?#:,\[\]]*)(?::(?P<port>\d+))?"
    r"(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?)"
)
_SAME = {"application_name", "channel_binding", "connect_timeout", "host", "options", "sslmode", "sslrootcert"}
"""The parameters that mean the same to Prisma or its drivers and to libpq."""
_LOGIN = ("user", "password", "port", "dbname", "database")
"""Parameters that to node-postgres win over what stands before them, and that Prisma's own engine does not know."""
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_UNVERIFIED = ("no-verify", "true", "1")
"""TLS in the words of node-postgres; whether it checks the certificate is not libpq's to say."""


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
    if twice := [key for key in _LOGIN if given.get(key)]:
        raise UrlError(
            f"{name} has {' and '.join(twice)} behind its `?`, which some clients heed and others do not; "
            "expected postgresql://user:password@host:port/database and nothing of it there"
        )
    found |= {key: value for key, value in given.items() if key in _SAME and value} | _tls(given, name)
    if missing := [key for key in ("host", "dbname", "user", "password") if not found[key]]:
        raise UrlError(
            f"{name} has no {' and no '.join(missing)}; expected postgresql://user:password@host:port/database"
        )
    return found


def _tls(given: Mapping[str, str], name: str) -> dict[str, str]:
    """Give libpq's words for what Prisma's engine, or node-postgres, is told of the encryption."""
    mode = given.get("sslmode") or given.get("ssl") or ""
    if mode in _UNVERIFIED:
        mode = "require"
    if mode and mode not in (*_MODES, "false", "0"):
        raise UrlError(f"{name} has an sslmode that no client knows; expected one of {', '.join(_MODES)}")
    found = {"sslmode": mode if mode in _MODES else "disable"} if mode else {}
    if given.get("sslcert") and given.get("sslkey"):  # the client's, as to libpq
        found |= {key: given[key] for key in ("sslcert", "sslkey")}
    elif given.get("sslcert"):  # to Prisma the server's
        found["sslrootcert"] = given["sslcert"]
    if given.get("sslaccept") == "strict" and mode != "disable":
        found["sslmode"] = "verify-full"
        if known := found.get("sslrootcert") or given.get("sslrootcert") or ssl.get_default_verify_paths().cafile:
            found["sslrootcert"] = known
    return found


def checked(url: str) -> bool:
    """Whether node-postgres would check the server's certificate, as it does in modes in which libpq does not."""
    given = dict(parse_qsl(_match(url, "DATABASE_URL")["query"] or ""))
    mode = given.get("sslmode") or given.get("ssl") or ""
    return mode in ("prefer", "require", "verify-ca", "true", "1") and given.get("uselibpqcompat") != "true"


def user(url: str, name: str = "DATABASE_URL") -> str:
    """Give the role that logs in."""
    return parameters(url, name)["user"]


def schema(url: str) -> str:
    """Give the schema that Prisma works in."""
    return dict(parse_qsl(_match(url, "DATABASE_URL")["query"] or "")).get("schema") or "public"


def with_schema(url: str, name: str) -> str:
    """Give the same URL with this schema for Prisma to work in."""
    return f"{url}{'&' if _match(url, 'the URL')['query'] is not None else '?'}schema={quote(name, safe='')}"


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
