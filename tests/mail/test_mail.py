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
