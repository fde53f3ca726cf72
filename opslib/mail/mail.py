"""Mail: whether SendGrid takes what the API sends, and what the API's logs say of it."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opslib.api import log
from opslib.api.log_event import Event
from opslib.api.pm2 import Worker
from opslib.api.settings import Log
from opslib.deployment.deployment import Deployment
from opslib.mail import sendgrid, suppression
from opslib.mail.suppression import Suppression
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Finding, Severity

EVENTS = ("processed", "deferred", "delivered", "bounce", "dropped", "spam_report")
"""The events without which nobody learns what became of a message."""
FULL = "api_keys.create"
"""A scope that only a key with full access, or one made for making keys, has."""
_LONGEST = 200  # characters of a reason
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w.-]+")
_TO = re.compile(rf"""\b(?:to|recipient)["']?: *[\[{{ ]*(?:email["']?: *)?["']?({_ADDRESS.pattern})""")


@dataclass(frozen=True)
class Webhook:
    """An event webhook of SendGrid's, and which of the events that we want it `lacks`."""

    url: str
    enabled: bool
    signed: bool
    lacks: str


@dataclass(frozen=True)
class Sends:
    """Sends of the API's that ended alike: how many, and when the first and the last was, by its own clock."""

    sent: bool
    times: int
    first: datetime | None
    last: datetime | None
    why: str


def scopes(environment: Deployment) -> Answer:
    """Whether SendGrid knows the key; with what it may do as evidence."""
    reply = sendgrid.ask(environment, "/v3/scopes")
    found = reply.content.get("scopes") if isinstance(reply.content, dict) else None
    if reply.problem or not isinstance(found, list):
        why = reply.problem or "an answer without scopes"
        return Answer(False if reply.refused else None, {"SendGrid": why}, f"{why}. {remedy(why)}.")
    return Answer(True, sorted(map(str, found)))


def webhooks(environment: Deployment) -> Answer:
    """Whether SendGrid's event webhooks are known; with them as evidence, or why SendGrid does not say."""
    reply = sendgrid.ask(environment, "/v3/user/webhooks/event/settings/all")
    found = reply.content.get("webhooks") if isinstance(reply.content, dict) else None
    if reply.problem or not isinstance(found, list):
        return Answer(None, {"not known": reply.problem or "an answer without webhooks"})
    return Answer(True, [_webhook(one) for one in found])


def logged(environment: Deployment, workers: Iterable[Worker]) -> log.Reading:
    """Read what the API has logged: the newest MiB of each log."""
    return _read(workers, environment.find(Log) or Log())


def sent(logs: log.Reading | Iterable[Worker], about: str = "") -> list[Sends]:
    """Give what the API's logs say of its sends, by result and reason.

    `about` is an address or domain, and asks only for its mail, and for failures that do not say whose they were.
    """
    address, domain = suppression.parse(about) if about else ("", "")
    times: dict[tuple[bool, str], list[datetime | None]] = {}
    for one in (logs if isinstance(logs, log.Reading) else _read(logs, Log())).events:
        well = one.means == "mail sent"
        if not well and one.means != "mail failed":
            continue
        to = str(one.said.get("to", "")) or " ".join(_TO.findall(one.text))
        named = [found.rstrip(".") for found in _ADDRESS.findall(to.lower())]
        mine = any(found == address.lower() if address else found.endswith(f"@{domain}") for found in named)
        if about and not mine and (named or well):
            continue
        why = "" if well else _reason(one) + (" (to whom is not in the log)" if about and not named else "")
        times.setdefault((well, why), []).append(one.at and one.at.replace(microsecond=0))
    found = []
    for (well, why), stamps in times.items():
        known = [at for at in stamps if at]
        found.append(Sends(well, len(stamps), min(known, default=None), max(known, default=None), why))
    return sorted(found, key=lambda one: -one.times)


def takes(environment: Deployment) -> Answer:
    """Whether SendGrid takes a message of the API's sender, tried in sandbox mode, which delivers nothing."""
    body = message(environment, sendgrid.settings(environment).sender)
    body |= {"mail_settings": {"sandbox_mode": {"enable": True}}}
    reply = sendgrid.ask(environment, "/v3/mail/send", "POST", body, acts=False)
    said = "" if reply.status == 200 else reply.problem or f"HTTP {reply.status}, expected 200"
    return Answer(not said if reply.status else None, {"POST /v3/mail/send in sandbox mode": said or "HTTP 200"}, said)


def verified(environment: Deployment, address: str) -> bool | None:
    """Whether SendGrid lists a sender, or its domain, as verified; None where the key may not see both lists."""
    senders, domains = (sendgrid.ask(environment, path) for path in ("/v3/verified_senders", "/v3/whitelabel/domains"))
    listed = senders.content.get("results") if isinstance(senders.content, dict) else None
    known = [one for one in listed or () if one.get("verified") is True]
    if any(str(one.get("from_email", "")).lower() == address.lower() for one in known):
        return True
    valid = [one for one in domains.content if one.get("valid") is True] if isinstance(domains.content, list) else []
    if any(str(one.get("domain", "")).lower() == address.rpartition("@")[2].lower() for one in valid):
        return True
    return False if isinstance(listed, list) and isinstance(domains.content, list) else None


def message(environment: Deployment, text: str) -> dict[str, Any]:
    """Make the message that tests delivery to one address. Raise BadParameter for what is none."""
    return {
        "personalizations": [{"to": [{"email": suppression.address(text)}]}],
        "from": {"email": sendgrid.settings(environment).sender},
        "subject": "PropertyPulse: a test of mail delivery",
        "content": [{"type": "text/plain", "value": "This message is a test. Nothing is wrong."}],
    }


def findings(
    environment: Deployment,
    *,
    scopes: Answer,
    takes: Answer,
    held: Sequence[Suppression],
    hooks: Answer,
    sends: Sequence[Sends],
    legible: Answer | None = None,
) -> list[Finding]:
    """Give each thing that keeps mail from arriving, or its fate from being known, with what mends it."""
    needs = sendgrid.settings(environment).needs
    found = [_finding(f"the key lacks the scope {name}", "Give it to the key in SendGrid: Settings > API Keys")
             for name in sorted(needs - {*scopes.evidence})]  # fmt: skip
    if FULL in scopes.evidence:
        risk = "the key has full access", "Mail arrives; make one with mail.send alone, and replace it"
        found.append(_finding(*risk, severity=Severity.RISK))
    if not takes:
        found.append(_finding(f"SendGrid takes no message: {takes.otherwise}", remedy(takes.otherwise)))
    found += map(_held, held)
    found += _hooks(sendgrid.settings(environment).webhook, hooks)
    if legible is not None and legible.ok is None and (legible.evidence["entries"] or legible.evidence["kept nowhere"]):
        found.append(
            _finding(
                "whether sends of the API failed cannot be told", legible.otherwise.rstrip("."), severity=Severity.RISK
            )
        )
    well = max((one.last for one in sends if one.sent and one.last), default=None)
    for one in sends:
        if not one.sent:
            over = well is not None and one.last is not None and well > one.last
            what = f"{one.times} sends of the API failed: {one.why}, last at {one.last}"
            what += ", and later ones did not" if over else ""
            found.append(_finding(what, remedy(one.why), severity=Severity.NOTICE if over else Severity.HARM))
    return found


def _held(one: Suppression) -> Finding:
    what = f"{one.address} is among the {one.list}: {one.why}"
    if one.list not in suppression.LIFTABLE:
        return _finding(what, "Nothing: it is their wish. They take it back by the link in a message")
    if "…" in one.address:
        return _finding(what, "Once its reason is gone: lift_mail_suppression, with the whole address")
    return Finding(what, "lift_mail_suppression", {"address": one.address, "list_name": one.list})


def _hooks(path: str, hooks: Answer) -> list[Finding]:
    if not hooks:  # a key need not be able to see them
        return []
    found = []
    for one in hooks.evidence:
        wrong = [] if one.enabled else ["is disabled"]
        wrong += [f"does not send {one.lacks}"] if one.lacks else []
        wrong += [] if one.signed else ["is not signed, so anybody can make up its events"]
        found += [f"the event webhook {one.url} {', '.join(wrong)}"] if wrong else []
    if path and not any(one.url.endswith(path) for one in hooks.evidence):
        found.append(f"no event webhook goes to {path}")
    return [_finding(what, "Mend it in SendGrid: Settings > Mail Settings", severity=Severity.RISK) for what in found]


def _webhook(one: dict[str, Any]) -> Webhook:
    lacks = ", ".join(name for name in EVENTS if one.get(name) is not True)
    return Webhook(str(one.get("url", "")), one.get("enabled") is True, bool(one.get("public_key")), lacks)


def _read(workers: Iterable[Worker], known: Log) -> log.Reading:
    return log.read(log.beginnings((position for worker in workers for position in worker.logs), known), known)


def _reason(one: Event) -> str:
    """Say why a send failed: the first line of its error, what SendGrid's body says below, and the code."""
    error = one.said.get("error", "")
    text = error if isinstance(error, str) else json.dumps(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    whole = one.text + (json.dumps(one.said, ensure_ascii=False) if "message" in one.said else "")
    head = _HEAD.sub("", lines[0]) if lines and not lines[0].startswith("{") else ""
    told = [found[2] for found in _MESSAGE.finditer(whole) if found[2] not in one.text.partition("\n")[0]]
    code = next((found[1] for found in _CODE.finditer(whole)), "")
    parts = [part for part in dict.fromkeys([head, *told]) if part] or ["no reason in the log"]
    why = "; ".join(parts) + (f" ({code})" if code and code not in "; ".join(parts) else "")
    return log.redact(_ADDRESS.sub(lambda found: suppression.masked(found[0]), why))[:_LONGEST]


def _finding(what: str, do: str, *, severity: Severity = Severity.HARM) -> Finding:
    return Finding(what, do=f"{do}.", severity=severity)


_HEAD = re.compile(r"^(?:\w*Error|Error \[\w+\]): *")
_MESSAGE = re.compile(r"""\bmessage\\*["']?: *\\*(["'`])((?:(?!\\*\1).)+)""")
_CODE = re.compile(r"""\b(?:code|responseCode|statusCode)["']?: *["']?(\w+)""")
# In this order: what SendGrid says tells more than the status that it says it with.
_REMEDIES = {
    r"(?i)credits|plan is used up": "The plan's messages are used up: raise it in SendGrid",
    r"(?i)\bIP address\b|\bIP\b.*\b(white|allow)|address of this machine": (
        "Allow the address that the API sends from in SendGrid: Settings > IP Access Management"
    ),
    r"[Ss]ender|verified": "Verify the sender in SendGrid: Settings > Sender Authentication",
    r"(?i)key is refused|grant is invalid|wrong credentials|invalid api key": (
        "Put a valid key into the .env as SENDGRID_API_KEY, then restart_api"
    ),
    # Of the API's log, without SendGrid's words: by then the key of the .env was found to be good.
    r"401|Unauthorized": (
        "The key in the .env is good: restart_api if the API began with another. Else the credits may be used up, or"
        " the address not be allowed: SendGrid's own words, which the log leaves out, say which"
    ),
    r"not permitted|403|[Ff]orbidden": "Give the key the scope mail.send in SendGrid: Settings > API Keys",
    r"\brate\b|429|Too Many": "Wait, and find out what sends so much: Activity in SendGrid",
    r"no answer|ECONN|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|getaddrinfo": "Mend the way out of here: DNS, firewall, proxy",
    r"HTTP 5|no JSON|Internal": "SendGrid is ill: see its status page, and run again",
}


def remedy(reason: str) -> str:
    """Say what to do about a reason, as SendGrid, the network or the API's log words it."""
    return next((do for words, do in _REMEDIES.items() if re.search(words, reason)), "Look the reason up at SendGrid")
