"""The other variables of the `.env` with the API's login: found, changed along with it, or named."""

from collections.abc import Iterator

import pytest

from opslib import propertypulse
from opslib.database import database_url, login_rotation, postgres
from opslib.database.companion import found
from opslib.database.login import Login
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from tests.drills.database import Saved
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

pytestmark = pytest.mark.usefixtures("sandbox", "saved")

OTHERS = ("DIRECT_URL", "REPORTS_URL")
EACH = pytest.mark.parametrize("method", ["alternate", "single"])


@pytest.fixture
def saved() -> Iterator[Saved]:
    one = Saved.now()
    yield one
    one.put_back()


@pytest.fixture
def env() -> Iterator[PropertyPulse]:
    """The stand-in, whose `.env` has its login in other variables too, and logins that are none of its business."""
    url = Credentials.load().database_url
    values = {
        "DIRECT_URL": url.replace("schema=public", "schema=tenant"),
        "REPORTS_URL": url.replace("127.0.0.1", "localhost").replace("/propertypulse?", "/postgres?"),
        "DASHBOARD_URL": Credentials.load().postgres_url,
        "STAGING_URL": url.replace("//propertypulse:", "//propertypulse:another-"),
        "EXPANDED_URL": "${DATABASE_URL}&pgbouncer=true",
    }
    values["STAGING_URL"] = values["STAGING_URL"].replace(":25432", ":9")
    made = env_file.edit(DOTENV, values)
    assert made
    yield propertypulse.load("sandbox")
    env_file.drop(made)


def held(*names: str) -> list[str]:
    return [env_file.read(DOTENV)[name] for name in names]


@EACH
def test_each_gets_the_new_login_and_keeps_all_else(env: PropertyPulse, method: str) -> None:
    login, before = Login(env, method), env_file.read(DOTENV)
    answer = login.along()
    assert answer
    login_rotation.create(login).do()
    assert login.works()
    switch = login_rotation.switch(login, settle=1)
    shown = "\n".join(one.shown for one in switch.acts)
    assert all(f"set {name} in " in shown for name in OTHERS)
    switch.acts[0].run()
    after = env_file.read(DOTENV)
    assert {key for key in after if after[key] != before[key]} == {"DATABASE_URL", *OTHERS}
    assert [postgres.failure(url) for url in held("DATABASE_URL", *OTHERS)] == [None, None, None]
    for name in OTHERS:
        assert after[name].partition("@")[2] == before[name].partition("@")[2]
    for made in env_file.edits(DOTENV):
        env_file.drop(made)


def test_whoever_would_be_locked_out_is_named(env: PropertyPulse) -> None:
    login = Login(env)
    login_rotation.create(login).do()
    made = env_file.edit(DOTENV, {"DATABASE_URL": login.new})  # by hand, and nothing else
    assert made
    env_file.drop(made)
    answer = login.abandoned()
    assert not answer
    assert isinstance(answer.evidence, list)
    assert [row["variable"] for row in answer.evidence] == sorted([*OTHERS])
    assert "DIRECT_URL, REPORTS_URL" in answer.otherwise


@pytest.mark.parametrize(
    ("value", "stands"),
    [
        ("{password}", "is no URL"),
        ("jdbc:postgresql://127.0.0.1:25432/propertypulse?user=propertypulse&password={quoted}", "is no URL"),
        ("host=127.0.0.1 user=propertypulse password={password}", "is no URL"),
        ("postgresql://propertypulse:another-one-of-it@127.0.0.1:25432/propertypulse", "another password"),
    ],
)
def test_what_cannot_be_changed_along_is_named(env: PropertyPulse, value: str, stands: str) -> None:
    url = Credentials.load().database_url
    password, quoted = database_url.parameters(url)["password"], url.split(":")[2].split("@")[0]
    made = env_file.edit(DOTENV, {"ODD": value.format(password=password, quoted=quoted)})
    assert made
    env_file.drop(made)
    answer = Login(env, "single").along()
    assert not answer and "ODD" in answer.otherwise
    assert [one.stands for one in Login(env, "single").companions if stands in one.stands]
    assert password not in str(answer.evidence)


def test_the_same_login_at_another_server_stays(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    real, url = postgres.server, Credentials.load().database_url
    other = url.replace("127.0.0.1", "127.0.0.2")

    def server(connection: postgres.Connection) -> tuple[object, ...]:
        return ("another", *real(connection)[1:]) if connection.info.host == "127.0.0.2" else real(connection)

    monkeypatch.setattr(postgres, "server", server)
    made = env_file.edit(DOTENV, {"OTHER_URL": other})
    assert made
    env_file.drop(made)
    reached = postgres.failure(other) is None
    assert ("OTHER_URL" in [one.variable for one in found(env, [url])]) is not reached
    assert database_url.user(other) == cluster.ROLE
