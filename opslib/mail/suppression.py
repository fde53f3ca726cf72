"""Suppressions: the addresses that SendGrid sends nothing to, why, and taking one off its list."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

from opslib.deployment.environment import Deployment
from opslib.mail import sendgrid
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter, ChangeFailed, RunbookError

LISTS = {
    "bounces": "/v3/suppression/bounces",
    "blocks": "/v3/suppression/blocks",
    "invalid_emails": "/v3/suppression/invalid_emails",
    "spam_reports": "/v3/suppression/spam_reports",
    "unsubscribes": "/v3/suppression/unsubscribes",
}
"""Where each list is. What a person has asked for, the last two, is theirs alone to take back."""
RELEASABLE = ("bounces", "blocks", "invalid_emails")
SHOWN = 50
_DOMAIN = r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ADDRESS = re.compile(rf"[\w.!#$%&'*+/=?^`{{|}}~-]{{1,64}}@{_DOMAIN}", re.IGNORECASE)


def parse(text: str) -> tuple[str, str]:
    """Give the address and the domain that a person has typed; the address is empty if it is a domain.

    Raise BadParameter for what is neither.
    """
    given = text.strip()
    if _ADDRESS.fullmatch(given):
        return given, given.rpartition("@")[2].lower()
    if re.fullmatch(_DOMAIN, given.lstrip("@"), re.IGNORECASE):
        return "", given.lstrip("@").lower()
    raise BadParameter(f"found {given[:80]!a}, expected an address, as ann@tenant.example, or a domain")


def masked(address: str) -> str:
    """Give an address as records of others' mail show it: the first letter and the domain."""
    name, at, domain = address.rpartition("@")
    return f"{name[:1]}…{at}{domain}"


def held(environment: Deployment, text: str) -> list[dict[str, str]]:
    """Give what holds mail back from an address or, at most SHOWN of them, from addresses of a domain.

    Raise RunbookError if SendGrid does not say of each list.
    """
    address, domain = parse(text)
    if address:
        return [row for name in LISTS for row in _of(environment, name, address)]
    return list(islice(_at(environment, domain), SHOWN))


def release(environment: Deployment, name: str, address: str) -> Change:
    """Make the change that takes an address off a list, so that mail to it is tried again."""
    if name not in RELEASABLE:
        raise BadParameter(
            f"{name} is the wish of whoever has the address: only they take it back, in a message's link"
        )
    found, _ = parse(address)
    if not found:
        raise BadParameter(f"found {address[:80]!a}, expected one address: domains are not released as a whole")

    def do() -> None:
        answer = sendgrid.ask(environment, _path(name, found), "DELETE")
        if answer.problem and answer.status != 404:  # 404: a run that was killed has done it
            raise ChangeFailed(f"{found} is still among the {name}: {answer.problem}")

    return Change(
        f"Take {found} off the {name}",
        [act(f"DELETE {_path(name, found)}", run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: "; ".join(row["why"] for row in _of(environment, name, found)) or "not on the list",
    )


def free(environment: Deployment, name: str, address: str) -> tuple[bool, list[dict[str, str]]]:
    """Whether an address is not on a list, with its entry if it is; true of no address."""
    found = _of(environment, name, parse(address)[0]) if address else []
    return not found, found


def _of(environment: Deployment, name: str, address: str) -> list[dict[str, str]]:
    """Ask one list for one address; the specification has no such address for unsubscribes but in `asm`."""
    path = f"/v3/asm/suppressions/global/{quote(address, safe='')}" if name == "unsubscribes" else _path(name, address)
    answer = sendgrid.ask(environment, path)
    if answer.problem and answer.status != 404:
        raise RunbookError(f"GET {path}: {answer.problem}. Whether mail to {address} is held back is not known.")
    found = answer.content if isinstance(answer.content, list) else [answer.content] if answer.content else []
    return [_row(name, address, one) for one in found]


def _at(environment: Deployment, domain: str) -> Iterator[dict[str, str]]:
    for name, path in LISTS.items():
        for one in sendgrid.listed(environment, path):
            address = str(one.get("email", ""))
            if address.lower().endswith(f"@{domain}"):
                yield _row(name, masked(address), one)


def _row(name: str, address: str, entry: dict[str, Any]) -> dict[str, str]:
    since = entry.get("created")
    return {
        "list": name,
        "address": address,
        "since": f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC" if isinstance(since, int) else "",
        "why": str(entry.get("reason") or entry.get("status") or _MEANS[name])[:200],
    }


def _path(name: str, address: str) -> str:
    return f"{LISTS[name]}/{quote(address, safe='')}"


_MEANS = {
    "bounces": "the address bounced",
    "blocks": "the receiver refused",
    "invalid_emails": "no valid address",
    "spam_reports": "reported as spam by whoever has the address",
    "unsubscribes": "unsubscribed by whoever has the address",
}
