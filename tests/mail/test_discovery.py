"""What is found of mail, on both stand-ins: each value as the environment's file has it, and no secret."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.mail import discovery
from opslib.propertypulse import PropertyPulse
from tests.drills import mailbox
from tests.found import asked, bare, leaked, lines, other, wrong

pytestmark = pytest.mark.usefixtures("plain")

SENDER = "no-reply@propertypulse.example"
HERE = {"mail.url", "mail.key", "mail.sender"}


@pytest.fixture(autouse=True)
def _well(plain: None) -> Iterator[None]:
    mailbox.well()
    yield
    mailbox.well()


@pytest.fixture
def env() -> PropertyPulse:
    return bare(propertypulse.load("sandbox"))


@pytest.mark.parametrize(
    ("name", "more", "left"), [("sandbox", {"mail.webhook"}, set()), ("plain", set(), {"mail.webhook"})]
)
def test_each_value_that_is_found_is_right(name: str, more: set[str], left: set[str]) -> None:
    known, before = propertypulse.load(name), mailbox.accepted()
    found = [*discovery.discover(bare(known), {})]
    assert wrong(known, found) == {} and leaked(known, found) == []
    assert ({*lines(found)}, {*asked(found)}) == (HERE | more, left)
    assert mailbox.accepted() == before


def test_a_key_that_may_only_send_asks_for_a_reader(env: PropertyPulse) -> None:
    mailbox.admin("scopes", scopes=["mail.send"])
    found = [*discovery.discover(env, {})]
    assert ({*lines(found)}, {*asked(found)}) == (HERE, {"mail.webhook", "mail.reader"})
    assert "may not ask" in asked(found)["mail.webhook"].what and not asked(found)["mail.reader"].example


@pytest.mark.parametrize(("fault", "said"), [({"status": 401, "times": 9}, "the key is refused"), ({}, "no answer")])
def test_a_key_that_is_refused_or_a_server_that_is_down_is_said_to_be(
    env: PropertyPulse, tmp_path: Path, fault: dict[str, int], said: str
) -> None:
    if fault:
        mailbox.fault(**fault)
    else:
        env = other(env, tmp_path, {"SENDGRID_API_BASE": "http://127.0.0.1:9"})
    found = [*discovery.discover(env, {})]
    assert {*lines(found)} == {"mail.url"} and leaked(env, found) == []
    assert said in asked(found)["mail.key"].what
    assert asked(found)["mail.sender"].example == SENDER


@pytest.mark.parametrize(
    ("verified", "domain", "said"),
    [
        ({"from_email": SENDER.upper(), "verified": True}, {}, "knows it as verified"),
        ({}, {"domain": "propertypulse.example", "valid": True}, "knows it as verified"),
        ({"from_email": SENDER, "verified": False}, {"domain": "propertypulse.example", "valid": False}, ""),
    ],
)
def test_a_sender_is_compared_with_what_sendgrid_has_verified(
    env: PropertyPulse, verified: dict[str, object], domain: dict[str, object], said: str
) -> None:
    mailbox.fault(200, path="/v3/verified_senders", text=json.dumps({"results": [verified]}))
    mailbox.fault(200, path="/v3/whitelabel", text=json.dumps([domain]))
    one = next(one for one in discovery.discover(env, {}) if one.key == "mail.sender")
    if said:
        assert said in getattr(one, "source", "")
    else:
        assert "knows neither it nor its domain" in getattr(one, "what", "")


def test_two_senders_are_for_a_person_to_choose_from(env: PropertyPulse, tmp_path: Path) -> None:
    (tmp_path / "mail.js").write_text("const from = process.env.MAIL_FROM || process.env.EMAIL_FROM;\n")
    env = other(env, tmp_path, {"MAIL_FROM": "Ops <ops@x.example>", "EMAIL_FROM": SENDER})
    env = env.model_copy(update={"api": env.api.model_copy(update={"release": tmp_path})})
    one = asked(discovery.discover(env, {}))["mail.sender"]
    assert "MAIL_FROM of the .env says Ops <ops@x.example>" in one.what and SENDER in one.what


def test_a_reader_that_is_nowhere_is_said_to_be(env: PropertyPulse) -> None:
    one = asked(discovery.discover(env, {"mail.reader": "env:NO_SUCH_READER"}))["mail.reader"]
    assert "NO_SUCH_READER is not set" in one.what


def test_without_a_key_there_is_nothing_to_say(env: PropertyPulse, tmp_path: Path) -> None:
    assert [*discovery.discover(other(env, tmp_path, {"SENDGRID_API_KEY": None}), {})] == []
