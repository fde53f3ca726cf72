"""URLs as Prisma writes them: to libpq's parameters, and back with everything but the login byte for byte."""

import ssl
from urllib.parse import quote

import psycopg.conninfo
import pytest
from hypothesis import given, strategies as st

from opslib.database import database_url
from opslib.database.database_url import UrlError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200)
RAW = "?schema=public&connection_limit=5&pool_timeout=2&pgbouncer=true&sslaccept=strict&statement_cache_size=0"
QUERIES = st.sampled_from(
    ["", "?", RAW, "?sslmode=require&schema=a%20b&&x=%zz", "?socket_timeout=3&options=-c%20a%3Db"]
)
HOSTS = st.sampled_from(["db.example.com", "127.0.0.1:6432", "[::1]:5432", "%2Fvar%2Frun%2Fpostgresql", "db:5433"])


@given(
    user=TEXT,
    password=TEXT,
    database=TEXT,
    host=HOSTS,
    query=QUERIES,
    scheme=st.sampled_from(["postgres", "postgresql"]),
)
def test_login_changes_and_the_rest_stays(
    user: str, password: str, database: str, host: str, query: str, scheme: str
) -> None:
    rest = f"@{host}/{quote(database, safe='')}{query}"
    url = database_url.with_login(f"{scheme}://old:o%2Fld{rest}", user, password)
    assert url.startswith(f"{scheme}://") and url.endswith(rest)
    assert url.isascii() or not database.isascii()
    found = database_url.parameters(url)
    assert (found["user"], found["password"], found["dbname"]) == (user, password, database)
    assert database_url.with_login(url, "old", "o/ld") == f"{scheme}://old:o%2Fld{rest}"
    psycopg.conninfo.make_conninfo(**found)  # libpq knows each of them


@given(TEXT)
def test_any_text_is_read_or_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UrlError) as raised:  # no text that is made here begins like a URL
        database_url.parameters(text)
    assert len(text) < 12 or text not in str(raised.value)


def test_parameters_of_prisma() -> None:
    url = "postgresql://app:p%40ss@[::1]:5433/pp?schema=tenant&sslmode=require&sslcert=/ca.pem&connection_limit=5"
    assert database_url.parameters(url) == {
        "host": "::1",
        "port": "5433",
        "dbname": "pp",
        "user": "app",
        "password": "p@ss",
        "sslmode": "require",
        "sslrootcert": "/ca.pem",
    }
    assert database_url.schema(url) == "tenant"
    assert database_url.parameters("postgres://a:b@/pp?host=/run/postgresql")["host"] == "/run/postgresql"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://app:hunter2secret@db/pp",
        "postgresql://app:hunter2secret@db,other/pp",
        "postgresql://app:hunter2/secret@db/pp",
        "postgresql://app:hunter2secret%FF@db/pp",
        "postgresql://app@db/hunter2secret",
        "postgresql://app:hunter2secret@db",
    ],
)
def test_what_is_no_url_of_one_database_is_refused(url: str) -> None:
    with pytest.raises(UrlError, match=r"ADMIN .*(expected|encode)") as raised:
        database_url.parameters(url, "ADMIN")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u:p@h:5/db?schema=s", "postgresql://u:p@h:5/a%20%2Fb?schema=s"),
        ("postgres://u:p@h/db", "postgres://u:p@h/a%20%2Fb"),
        ("postgres://u:p@h:5/", "postgres://u:p@h:5/a%20%2Fb"),
        ("postgres://u:p@[::1]:5?pgbouncer=true", "postgres://u:p@[::1]:5/a%20%2Fb?pgbouncer=true"),
        ("postgres://u:p@h", "postgres://u:p@h/a%20%2Fb"),
        ("postgres://u:p@[::1]", "postgres://u:p@[::1]/a%20%2Fb"),
    ],
)
def test_another_database_leaves_all_else(given: str, expected: str) -> None:
    changed = database_url.with_database(given, "a /b")
    assert changed == expected
    assert database_url.parameters(changed)["dbname"] == "a /b"


CA = ssl.get_default_verify_paths().cafile


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("sslmode=no-verify", {"sslmode": "require"}),  # node-postgres
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=false", {"sslmode": "disable"}),
        ("sslmode=verify-full&sslrootcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("sslcert=/c.pem&sslkey=/k.pem", {"sslcert": "/c.pem", "sslkey": "/k.pem"}),
        ("sslcert=/ca.pem", {"sslrootcert": "/ca.pem"}),  # Prisma
        ("sslmode=require&sslaccept=strict&sslcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("sslaccept=strict", {"sslmode": "verify-full", **({"sslrootcert": CA} if CA else {})}),
        ("sslaccept=accept_invalid_certs&sslmode=prefer", {"sslmode": "prefer"}),
        ("uselibpqcompat=true&pool_timeout=5&statement_cache_size=0&socket_timeout=9", {}),
    ],
)
def test_encryption_in_the_words_of_each_client(query: str, meant: dict[str, str]) -> None:
    found = database_url.parameters(f"postgresql://app:pw@h/pp?schema=s&pgbouncer=true&{query}")
    assert {key: value for key, value in found.items() if key.startswith("ssl")} == meant
    psycopg.conninfo.make_conninfo(**found)


@pytest.mark.parametrize("query", ["user=other", "password=hunter2", "sslmode=hunter2", "dbname=x&port=1"])
def test_what_clients_would_read_in_different_ways_is_refused_in_words(query: str) -> None:
    with pytest.raises(UrlError, match=r"ADMIN has .* expected") as raised:
        database_url.parameters(f"postgresql://app:pw@h/pp?{query}", "ADMIN")
    assert "hunter2" not in str(raised.value)
