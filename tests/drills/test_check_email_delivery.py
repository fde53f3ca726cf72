"""Drills of the mail procedures on the stand-in: each cause named, an address freed, a message sent when asked for."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import pm2
from opslib.mail import suppression
from tests.drills import mailbox
from tests.sandbox.credentials import Credentials
from tests.test_sandbox import ask, login

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture(autouse=True)
def _well(sandbox: None) -> Iterator[None]:
    for worker in pm2.workers(propertypulse.load("sandbox")):
        for position in worker.logs:
            position.path.write_bytes(b"")  # of sends that earlier tests made
    yield
    mailbox.well()


def check(*arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Look what is wrong."""
    return run("check_email_delivery", *arguments)


def run(name: str, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Run a procedure; give its exit code, what the terminal showed, and its record."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr, json.loads(Path(done.stdout.splitlines()[-1]).read_text())


def test_a_healthy_way_and_nothing_is_sent() -> None:
    before = mailbox.accepted()
    code, shown, _ = check()
    assert code == 0, shown
    assert mailbox.accepted() == before


@pytest.mark.parametrize(
    ("fault", "said", "remedy"),
    [
        ({"status": 401, "times": 9}, "HTTP 401, the key is refused", "Put a valid key into the .env"),
        ({"status": 429, "times": 99, "headers": {"Retry-After": "0"}}, "the rate is limited", "what sends so much"),
        ({"status": 500, "times": 9}, "HTTP 500", "SendGrid is ill"),
        ({"status": 200, "text": "<html>", "times": 9}, "no JSON", "SendGrid is ill"),
        ({"status": 0, "times": 9}, "no answer from SendGrid", "Mend the way out of here"),
        ({"status": 403, "times": 9, "path": "/v3/mail", "message": "Not a verified Sender Identity"},
         "Not a verified Sender Identity", "Verify the sender"),
    ],
)  # fmt: skip
def test_what_sendgrid_says_is_named_with_what_to_do(fault: dict[str, Any], said: str, remedy: str) -> None:
    mailbox.admin("faults", **fault)
    code, shown, made = check()
    assert code == (5 if "message" in fault else 1)  # where the key is not known nothing else can be asked
    assert said in shown
    assert remedy in shown
    assert made["metadata"]["opslib"]["outcome"] == ("planned" if "message" in fault else "failed")


@pytest.mark.parametrize(
    ("scopes", "expected", "said"),
    [
        (["user.webhooks.event.settings.read"], 5, "the key lacks the scope mail.send"),
        (["mail.send"], 0, "HTTP 403, not permitted to this key"),
        (["mail.send", "user.webhooks.event.settings.read", "api_keys.create"], 5, "the key has full access"),
    ],
)
def test_what_the_key_may_do(scopes: list[str], expected: int, said: str) -> None:
    mailbox.admin("scopes", scopes=scopes)
    code, shown, _ = check()
    assert code == expected
    assert said in shown


def test_an_address_that_is_held_back_is_released_when_asked_for() -> None:
    mailbox.admin("suppressions", list="bounces", emails=["back@tenant.example"], reason="550 full")
    asked = ("-p", "address", "back@tenant.example")
    code, shown, _ = check(*asked)
    assert code == 5
    assert "back@tenant.example is among the bounces: 550 full" in shown
    words = "lift_mail_suppression -e sandbox -p address back@tenant.example -p list_name bounces"
    assert f"runbook run {words}" in shown
    code, shown, _ = run(*words.replace("-e sandbox ", "").split())
    assert (code, "DELETE /v3/suppression/bounces/back%40tenant.example" in shown) == (0, True), shown
    assert check(*asked)[0] == 5  # the plan alone has changed nothing
    assert run("lift_mail_suppression", *asked, "--apply")[0] == 0
    assert suppression.free(propertypulse.load("sandbox"), "back@tenant.example")
    assert run("lift_mail_suppression", *asked, "--apply")[0] == 0  # as after a kill


def test_a_persons_own_wish_is_never_taken_back() -> None:
    code, shown, _ = check("-p", "address", "optout@tenant.example")
    assert code == 5
    assert "it is their wish" in shown
    asked = ("-p", "address", "angry@tenant.example", "-p", "list_name", "spam_reports", "--apply")
    assert run("lift_mail_suppression", *asked)[0] == 4


def test_a_message_is_sent_only_when_asked_for_and_once() -> None:
    to = ("-p", "send_to", "ann@tenant.example")
    before = len(mailbox.accepted())
    assert run("send_test_mail", *to)[0] == 0
    assert len(mailbox.accepted()) == before
    assert run("send_test_mail", *to, "--apply")[0] == 0
    sent = mailbox.accepted()[before:]
    assert [one["personalizations"][0]["to"][0]["email"] for one in sent] == ["ann@tenant.example"]
    mailbox.fault(0, path="/v3/mail", skip=1)  # the sandbox-mode message is answered, the real one not
    code, shown, made = run("send_test_mail", *to, "--apply")
    assert code == 3, shown
    assert "whether it was done is not known" in made["metadata"]["opslib"]["why"]


def test_no_message_is_sent_to_an_address_that_is_held_back() -> None:
    before = len(mailbox.accepted())
    code, shown, _ = run("send_test_mail", "-p", "send_to", "full@tenant.example", "--apply")
    assert (code, "✗ No list holds mail to full@tenant.example back" in shown) == (1, True), shown
    assert len(mailbox.accepted()) == before


def test_the_apis_own_failures_are_counted_and_its_users_not_named() -> None:
    authorization = {"Authorization": login(Credentials.load())}
    api = propertypulse.load("sandbox").api.url
    assert ask(f"{api}/api/email/test", {"to": "well@tenant.example"}, **authorization)[0] == 202
    mailbox.fault(401, times=2, path="/v3/mail")
    for _ in range(2):
        assert ask(f"{api}/api/email/test", {"to": "cut@tenant.example"}, **authorization)[0] == 502
    mailbox.well()
    code, shown, made = check()
    assert code == 5
    assert "2 sends of the API failed: Unauthorized (401)" in shown
    assert "cut@" not in json.dumps(made)
    assert check("-p", "address", "well@tenant.example")[0] == 0
    assert check("-p", "address", "cut@tenant.example")[0] == 5


def test_failures_in_plain_lines_are_found_with_their_reason() -> None:
    failed = """📧 Email send failed: ResponseError: Unauthorized
    at /srv/server/node_modules/@sendgrid/client/client.js:146:29 {
  code: 401
}
{ errors: [ { message: 'Maximum credits exceeded', field: null, help: null } ] }
"""
    with pm2.workers(propertypulse.load("sandbox"))[0].logs[0].path.open("a") as file:
        file.write(failed * 3)
    code, shown, _ = check()
    assert code == 5
    assert "3 sends of the API failed: Unauthorized; Maximum credits exceeded (401)" in shown
    assert "The plan's messages are used up" in shown


def test_no_key_is_shown() -> None:
    _, shown, made = check("-p", "address", "gone@tenant.example")
    assert Credentials.load().sendgrid_api_key not in shown + json.dumps(made)
