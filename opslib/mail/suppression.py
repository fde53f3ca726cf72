"""Suppressions: the addresses that SendGrid sends nothing to, and why."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

from opslib.deployment.deployment import Deployment
from opslib.mail import sendgrid
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, RunbookError

LISTS = {
    "bounces": "/v3/suppression/bounces",
    "blocks": "/v3/suppression/blocks",
    "invalid_emails": "/v3/suppression/invalid_emails",
    "spam_reports": "/v3/suppression/spam_reports",
    "unsubscribes": "/v3/suppression/unsubscribes",
    "group_unsubscribes": "/v3/asm/suppressions",
}
"""Where each list is. What a person has asked for, the last three, is theirs alone to take back."""
_ONE = {"unsubscribes": "/v3/asm/suppressions/global/{}", "group_unsubscribes": "/v3/asm/suppressions/{}"}
"""Where these are asked for one address, which is elsewhere."""
LIFTABLE = ("bounces", "blocks", "invalid_emails")
SHOWN = 50
_DOMAIN = r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ADDRESS = re.compile(rf"[\w.!#$%&'*+/=?^`{{|}}~-]{{1,64}}@{_DOMAIN}", re.IGNORECASE)


@dataclass(frozen=True)
class Suppression:
    """One entry of a list: SendGrid sends nothing to the address since then, and why."""

    list: str
    address: str
    since: datetime | None
    why: str


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


def address(text: str) -> str:
    """Give the address that a person has typed. Raise BadParameter for a domain, or what is neither."""
    found, domain = parse(text)
    if not found:
        raise BadParameter(f"found the domain {domain[:80]!a}, expected one whole address")
    return found


def masked(address: str) -> str:
    """Give an address as records of others' mail show it: the first letter and the domain."""
    name, at, domain = address.rpartition("@")
    return f"{name[:1]}…{at}{domain}"


def held(environment: Deployment, text: str) -> list[Suppression]:
    """Give what holds mail back from an address or, at most SHOWN of them, from addresses of a domain.

    Raise RunbookError if SendGrid does not say of each list.
    """
    address, domain = parse(text)
    if address:
        return [one for name in LISTS for one in of(environment, name, address)]
    return list(islice(_at(environment, domain), SHOWN))


def free(environment: Deployment, text: str) -> Answer:
    """Whether no list holds mail to an address back; with the entries that do."""
    found = held(environment, text)
    return Answer(not found, found, "lift_mail_suppression takes an address off a list, once its reason is gone.")


def why(environment: Deployment, name: str, address: str) -> str:
    """Say why a list has an address, or that it has not."""
    return "; ".join(one.why for one in of(environment, name, address)) or "not on the list"


def off(environment: Deployment, name: str, address: str) -> Answer:
    """Whether one list has no entry for an address; with the entry if it has."""
    found = of(environment, name, address)
    return Answer(not found, found)


def of(environment: Deployment, name: str, address: str) -> list[Suppression]:
    """Ask one list for one address; of group unsubscribes those groups that the address has left."""
    path = _ONE[name].format(quote(address, safe="")) if name in _ONE else _path(name, address)
    reply = sendgrid.ask(environment, path)
    if reply.problem and reply.status != 404:
        raise RunbookError(f"GET {path}: {reply.problem}. Whether mail to {address} is held back is not known.")
    found = reply.content if isinstance(reply.content, list) else [reply.content] if reply.content else []
    if name == "group_unsubscribes":
        found = [one for said in found for one in said.get("suppressions", ()) if one.get("suppressed")]
    return [_suppression(name, address, one) for one in found]


def entry(name: str, text: str) -> str:
    """Give where a list has its entry for one address. Raise BadParameter if nobody but its owner may take it off."""
    if name not in LIFTABLE:
        raise BadParameter(
            f"{name} is the wish of whoever has the address: only they take it back, in a message's link"
        )
    return _path(name, address(text))


def _at(environment: Deployment, domain: str) -> Iterator[Suppression]:
    for name, path in LISTS.items():
        for one in _all(environment, path):
            address = str(one.get("email", ""))
            if address.lower().endswith(f"@{domain}"):
                yield _suppression(name, masked(address), one)


def _all(environment: Deployment, path: str) -> Iterator[dict[str, Any]]:
    if path != LISTS["group_unsubscribes"]:
        yield from sendgrid.listed(environment, path)
        return
    reply = sendgrid.ask(environment, path)  # the specification knows no pages of these
    if reply.problem or not isinstance(reply.content, list):
        raise RunbookError(f"GET {path}: {reply.problem or 'no list'}. Run again once SendGrid answers.")
    yield from reply.content


def _suppression(name: str, address: str, entry: dict[str, Any]) -> Suppression:
    since = entry.get("created") or entry.get("created_at")
    means = _MEANS[name].format(entry.get("group_name") or entry.get("name"))
    return Suppression(
        name,
        address,
        datetime.fromtimestamp(since, UTC) if isinstance(since, int) else None,
        str(entry.get("reason") or entry.get("status") or means)[:200],
    )


def _path(name: str, address: str) -> str:
    return f"{LISTS[name]}/{quote(address, safe='')}"


_MEANS = {
    "bounces": "the address bounced",
    "blocks": "the receiver refused",
    "invalid_emails": "no valid address",
    "spam_reports": "reported as spam by whoever has the address",
    "unsubscribes": "unsubscribed by whoever has the address",
    "group_unsubscribes": "unsubscribed from the group {!r} by whoever has the address: other mail arrives",
}
