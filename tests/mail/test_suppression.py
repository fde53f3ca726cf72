"""Suppressions: what people type for an address, what is asked for it, and whose entry may be taken back."""

from collections.abc import Iterator

import pytest

from opslib import propertypulse
from opslib.mail import sendgrid, suppression
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadParameter, RunbookError
from tests.drills import mailbox


@pytest.fixture(name="env")
def _env(sandbox: None) -> Iterator[PropertyPulse]:
    yield propertypulse.load("sandbox")
    mailbox.well()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Ann.O'Neil+x@Tenant.example", ("Ann.O'Neil+x@Tenant.example", "tenant.example")),
        (" a/b?c#d%25@t.example ", ("a/b?c#d%25@t.example", "t.example")),
        ("$(reboot)`id`@t.example", None),
        ("$HOME`id`|x@t.example", ("$HOME`id`|x@t.example", "t.example")),
        ("tenant.example", ("", "tenant.example")),
        ("@Tenant.Example", ("", "tenant.example")),
        ("typo@tenant", ("typo@tenant", "tenant")),
        ("a@b@c.example", None),
        ("", None),
        ("a@b.example\r\nX: y", None),
        ("'; DROP TABLE users; --@t.example", None),
        ("../../v3/api_keys", None),
        ("a" * 65 + "@t.example", None),
        ("t" * 64 + ".example", None),
        ("ümlaut@t.example\x00", None),
    ],
)
def test_what_is_an_address(text: str, parsed: tuple[str, str] | None) -> None:
    if parsed is None:
        with pytest.raises(BadParameter, match="expected an address"):
            suppression.parse(text)
    else:
        assert suppression.parse(text) == parsed


@pytest.mark.parametrize(
    ("address", "lists"),
    [
        ("gone@tenant.example", ["bounces"]),
        ("full@tenant.example", ["blocks"]),
        ("typo@tenant", ["invalid_emails"]),
        ("angry@tenant.example", ["spam_reports"]),
        ("optout@tenant.example", ["unsubscribes"]),
        ("calm@tenant.example", ["group_unsubscribes"]),
        ("well@tenant.example", []),
        ("a/../gone%40tenant.example?x#y@t.example", []),
    ],
)
def test_what_holds_mail_back_from_an_address(env: PropertyPulse, address: str, lists: list[str]) -> None:
    assert [row.list for row in suppression.held(env, address)] == lists


def test_an_address_of_metacharacters_is_asked_for_as_it_is(env: PropertyPulse) -> None:
    odd = "a/b?c#d%25&e=f$`+'@t.example"
    mailbox.admin("suppressions", list="bounces", emails=[odd])
    assert [(row.list, row.address) for row in suppression.held(env, odd)] == [("bounces", odd)]
    sendgrid.request(env, "DELETE", suppression.entry("bounces", odd), done=(204,)).run()
    assert suppression.off(env, "bounces", odd) and suppression.free(env, odd)


def test_a_domain_shows_its_addresses_shortened(env: PropertyPulse) -> None:
    rows = suppression.held(env, "tenant.example")
    assert {row.address for row in rows} == {f"{c}…@tenant.example" for c in "gfaoc"}
    assert [row.why for row in rows if row.list == "group_unsubscribes"] == [
        "unsubscribed from the group 'Reminders' by whoever has the address: other mail arrives"
    ]
    mailbox.admin("suppressions", list="blocks", emails=[f"x{n}@huge.example" for n in range(80)])
    assert len(suppression.held(env, "huge.example")) == suppression.SHOWN


def test_an_unknown_answer_is_not_a_no(env: PropertyPulse) -> None:
    mailbox.fault(500, times=9, path="/v3/suppression/blocks")
    with pytest.raises(RunbookError, match="is held back is not known"):
        suppression.held(env, "well@tenant.example")


def test_whose_entry_may_be_taken_back() -> None:
    for name in ("spam_reports", "unsubscribes", "group_unsubscribes"):
        with pytest.raises(BadParameter, match="is the wish of whoever has the address"):
            suppression.entry(name, "angry@tenant.example")
    with pytest.raises(BadParameter, match="expected one whole address"):
        suppression.entry("bounces", "tenant.example")


def test_an_entry_is_deleted_once_however_often_it_is_run(env: PropertyPulse) -> None:
    mailbox.admin("suppressions", list="blocks", emails=["once@tenant.example"], reason="451 later")
    (held,) = suppression.free(env, "once@tenant.example").evidence
    assert (held.list, held.why) == ("blocks", "451 later")
    lift = sendgrid.request(env, "DELETE", suppression.entry("blocks", "once@tenant.example"), done=(204, 404))
    assert lift.shown == "DELETE /v3/suppression/blocks/once%40tenant.example"
    lift.run()
    assert suppression.off(env, "blocks", "once@tenant.example")
    lift.run()
