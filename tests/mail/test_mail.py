"""Mail: what the API's logs say of its sends, and what is found wrong, for this moment and not for an earlier one."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import log
from opslib.api.pm2 import Worker
from opslib.mail import mail
from opslib.mail.mail import Sends, Webhook
from opslib.mail.suppression import Suppression
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Severity

ENV = propertypulse.load("sandbox")
WELL = Webhook("https://api.example.com/api/webhooks/sendgrid", True, True, "")


UNKNOWN: dict[str, Any] = {"scopes": Answer(True, ["mail.send"]), "takes": Answer(True), "hooks": Answer(None)}
"""What is known where nothing is wrong, and the webhooks cannot be seen."""


def at(hour: int) -> datetime:
    return datetime(2026, 3, 1, hour, tzinfo=UTC)


def found(
    scopes: tuple[str, ...] = ("mail.send",),
    *,
    held: tuple[Suppression, ...] = (),
    hooks: Webhook = WELL,
    sends: tuple[Sends, ...] = (),
) -> list[str]:
    """What is found wrong where all else is well."""
    known = UNKNOWN | {"scopes": Answer(True, scopes), "hooks": Answer(True, [hooks])}
    return [one.what for one in mail.findings(ENV, held=held, sends=sends, **known)]


def test_where_all_is_well_nothing_is_found() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("hooks", "wrong"),
    [
        (Webhook(WELL.url, False, True, ""), "is disabled"),
        (Webhook(WELL.url, True, False, ""), "is not signed"),
        (Webhook(WELL.url, True, True, "bounce"), "does not send bounce"),
        (Webhook("https://elsewhere.example", True, True, ""), "no event webhook goes to"),
    ],
)
def test_an_event_webhook_that_does_not_tell_all_is_found(hooks: Webhook, wrong: str) -> None:
    (one,) = found(hooks=hooks)
    assert wrong in one


def test_a_key_that_may_too_little_or_too_much_is_found() -> None:
    assert found(()) == ["the key lacks the scope mail.send"]
    assert found(("mail.send", mail.FULL)) == ["the key has full access"]


def test_what_holds_an_address_back_is_lifted_by_the_procedure_for_it() -> None:
    held = [Suppression(name, "ann@t.example", None, "why") for name in ("blocks", "spam_reports")]
    lifted, wish = mail.findings(ENV, held=held, sends=[], **UNKNOWN)
    command = "runbook run lift_mail_suppression -e live -p address ann@t.example -p list_name blocks"
    assert lifted.command("live") == command
    assert "their wish" in wish.do


def test_a_failure_that_is_over_is_no_harm_any_more() -> None:
    failed = Sends(False, 2, at(1), at(2), "Unauthorized (401)")
    for last, severity in ((at(1), Severity.HARM), (at(3), Severity.NOTICE)):
        (one,) = mail.findings(ENV, held=[], sends=[Sends(True, 1, at(1), last, ""), failed], **UNKNOWN)
        assert one.severity is severity
        assert "2 sends of the API failed: Unauthorized (401), last at 2026-03-01 02:00" in one.what


def test_sends_are_counted_by_how_they_ended_and_name_nobody(tmp_path: Path) -> None:
    file = tmp_path / "app-out-0.log"
    said: list[dict[str, Any]] = [
        {"message": "Email sent successfully", "to": "ann@t.example"},
        {"message": "Email send failed", "to": "bob@t.example", "error": "no bob@t.example here", "code": 550},
        {"message": "Email send failed", "to": "bob@t.example", "error": "no bob@t.example here", "code": 550},
    ]
    lines = [json.dumps({"timestamp": at(number).isoformat(), **one}) for number, one in enumerate(said)]
    file.write_text("\n".join(lines) + "\n")
    workers = [Worker(0, 1, "online", "cluster", 0, 1, 1, None, True, log.mark([file]))]
    assert mail.sent(workers) == [
        Sends(False, 2, at(1), at(2), "no b…@t.example here (550)"), Sends(True, 1, at(0), at(0), ""),
    ]  # fmt: skip
    assert mail.sent(workers, "ann@t.example") == [Sends(True, 1, at(0), at(0), "")]
    assert [one.times for one in mail.sent(workers, "t.example")] == [2, 1]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("Maximum credits exceeded (401)", "raise it"),
        ("Unauthorized; Maximum credits exceeded (401)", "raise it"),
        ("HTTP 401, the key is refused: The provided authorization grant is invalid, expired, or revoked", "valid key"),
        ("The requestor's IP Address is not whitelisted (401)", "IP Access Management"),
        ("access forbidden: IP address not allowed (403)", "IP Access Management"),
        ("The from address does not match a verified Sender Identity (403)", "Verify the sender"),
        ("Forbidden (403)", "scope mail.send"),
        ("Unauthorized (401)", "SendGrid's own words"),
        ("could not generate a message (554)", "Look the reason up"),
        ("getaddrinfo ENOTFOUND api.sendgrid.com (ENOTFOUND)", "Mend the way out"),
    ],
)
def test_what_sendgrid_says_is_judged_before_the_status_that_it_says_it_with(words: str, advice: str) -> None:
    assert advice in mail.remedy(words)


def logs(file: Path, text: str) -> list[Worker]:
    file.write_text(text)
    return [Worker(0, 1, "online", "fork", 0, 1, 1, None, False, log.mark([file]))]


FAILED = """📧 Email send failed: ResponseError: Forbidden
    at /srv/client.js:1:2 {
  code: 403,
  config: { headers: { Authorization: 'Bearer SG.abcdefgh12345678.abcdefgh12345678' } },
  mail: { to: 'ann@t.example', from: 'no-reply@propertypulse.example' },
  response: { body: { errors: [ { message: 'not a verified Sender Identity: no-reply@propertypulse.example' } ] } }
}
"""


def test_a_failure_printed_over_many_lines_is_one_with_its_reason_and_names_nobody(tmp_path: Path) -> None:
    workers = logs(tmp_path / "api-out.log", FAILED * 3 + "📧 Email sent successfully to: bob@t.example\n")
    failed = "Forbidden; not a verified Sender Identity: n…@propertypulse.example (403)"
    assert [(one.sent, one.times, one.why) for one in mail.sent(workers)] == [(False, 3, failed), (True, 1, "")]
    assert [(one.sent, one.times) for one in mail.sent(workers, "ann@t.example")] == [(False, 3)]
    assert [(one.sent, one.times) for one in mail.sent(workers, "bob@t.example")] == [(True, 1)]
    assert mail.sent(workers, "propertypulse.example") == []


def test_a_failure_that_does_not_say_whose_it_was_may_be_anybodys(tmp_path: Path) -> None:
    workers = logs(tmp_path / "api-out.log", "📧 Email send failed: Error: no\n    at x\n")
    (one,) = mail.sent(workers, "ann@t.example")
    assert one.why == "no (to whom is not in the log)"


def test_a_nested_error_in_json_has_its_reason_too(tmp_path: Path) -> None:
    body = {"errors": [{"message": "Maximum credits exceeded", "field": None}]}
    error = {"name": "ResponseError", "code": 401, "response": {"body": body}}
    line = json.dumps({"level": "error", "message": "Email send failed", "to": "a@b.example", "error": error})
    (one,) = mail.sent(logs(tmp_path / "x.log", line + "\n"))
    assert one.why == "Maximum credits exceeded (401)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mail went out\n", "The logs cannot be read: none of 1 entries is known"),
        ("🔔 Processing due reminders...\n", ""),
        ("", ""),  # nothing was logged, and nothing is found wrong
    ],
)
def test_logs_that_cannot_be_read_are_found(tmp_path: Path, text: str, said: str) -> None:
    found = mail.logged(ENV, logs(tmp_path / "x.log", text))
    assert not mail.sent(found)
    unread = mail.findings(ENV, held=[], sends=[], legible=found.legible, **UNKNOWN)
    assert [one.what for one in unread] == (["whether sends of the API failed cannot be told"] if said else [])
    assert [said in one.do for one in unread] == [True] * bool(said)
    assert found.legible.ok is (True if "🔔" in text else None)
