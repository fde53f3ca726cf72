"""The API's login: why it does not get in, by name."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.database import api_login
from opslib.database.api_login import REMEDIES, ApiLogin
from opslib.database.postgres import LoginFailed
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ask(where: str) -> ApiLogin:
    return api_login.ask(f"postgresql://app:secret-of-mine@{where}/db?schema=public&connection_limit=5")


def test_nothing_listens() -> None:
    found = ask("127.0.0.1:9")
    assert (found.answer, found.cause, found.down) == ("no response", "refused", True)
    assert "secret-of-mine" not in str(found)


def test_host_is_not_known() -> None:
    assert ask("nowhere.invalid:5432").cause == "dns"


def test_no_answer_comes(deaf: int) -> None:
    found = ask(f"127.0.0.1:{deaf}")
    assert (found.answer, found.cause) == ("no response", "timeout")


def test_what_is_no_url_is_not_repeated() -> None:
    found = api_login.ask("mysql://app:secret-of-mine@h/db")
    assert (found.cause, found.down) == ("url", False)
    assert "secret-of-mine" not in str(found)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("could not translate host name", "dns"),
        ("server does not support SSL, but SSL was required", "tls"),
        ("No route to host", "unreachable"),
        ("something new", "unknown"),
    ],
)
def test_words_of_libpq(said: str, cause: str) -> None:
    assert api_login._cause(LoginFailed(said, "down")) == cause
    assert api_login._cause(LoginFailed("x", "no-entry")) == "no-entry"


@pytest.mark.usefixtures("sandbox")
def test_causes_that_the_server_names() -> None:
    credentials = Credentials.load()
    url = credentials.database_url
    wrong = url.replace(f"{postgres.ROLE}:", f"{postgres.ROLE}:wrong")
    found = [api_login.ask(one).cause for one in (url, wrong, url.replace("/propertypulse?", "/nothing?"))]
    assert found == ["none", "password", "no-database"]
    with postgres.connect_admin(credentials) as admin:
        admin.execute("ALTER ROLE propertypulse CONNECTION LIMIT 0")
        try:
            full = api_login.ask(url)
            assert (full.cause, full.answer) == ("full", "accepting connections")
        finally:
            admin.execute("ALTER ROLE propertypulse CONNECTION LIMIT -1")
    assert all(REMEDIES[cause] for cause in ("full", "password", "no-database"))


def test_a_query_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://app:pw@127.0.0.1:9/db\n")
    found = propertypulse.load("sandbox")
    env = found.model_copy(update={"api": found.api.model_copy(update={"env_file": tmp_path / ".env"})})
    assert not api_login.reads(env) and "Connection refused" in api_login.reads(env).evidence["answer"]
    assert not api_login.accepts(env) and api_login.startable(env)
