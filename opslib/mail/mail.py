"""Mail: whether SendGrid takes what the API sends, what the API's logs say of it, and a message sent on purpose."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from opslib.api import log
from opslib.api.pm2 import Worker
from opslib.deployment.environment import Deployment
from opslib.mail import sendgrid, suppression
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter, ChangeFailed
from opslib.runbook.finding import Finding

EVENTS = ("processed", "deferred", "delivered", "bounce", "dropped", "spam_report")
"""The events without which nobody learns what became of a message."""
FULL = "api_keys.create"
"""A scope that only a key with full access, or one made for making keys, has."""
_SENT, _FAILED = "Email sent successfully", "Email send failed"
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w.-]+")

Rows = list[dict[str, str]]


def scopes(environment: Deployment) -> tuple[frozenset[str], str]:
    """Give what the key may do, or why SendGrid does not say."""
    answer = sendgrid.ask(environment, "/v3/scopes")
    found = answer.content.get("scopes") if isinstance(answer.content, dict) else None
    if answer.problem or not isinstance(found, list):
        return frozenset(), answer.problem or "an answer without scopes"
    return frozenset(map(str, found)), ""


def webhooks(environment: Deployment) -> tuple[Rows | None, str]:
    """Give SendGrid's event webhooks with what is wrong with each, or None and why SendGrid does not say."""
    answer = sendgrid.ask(environment, "/v3/user/webhooks/event/settings/all")
    found = answer.content.get("webhooks") if isinstance(answer.content, dict) else None
    if answer.problem or not isinstance(found, list):
        return None, answer.problem or "an answer without webhooks"
    return [_webhook(one) for one in found], ""


def sent(workers: Iterable[Worker], about: str = "") -> Rows:
    """Give what the API's logs say of its sends: by result and reason how many, and when first and last.

    Of the newest MiB of each log. `about` is an address or domain, and asks only for its mail.
    """
    address, domain = suppression.parse(about) if about else ("", "")
    paths = dict.fromkeys(position.path for worker in workers for position in worker.logs)
    counts: Counter[tuple[str, str]] = Counter()
    times: dict[tuple[str, str], list[str]] = {}
    for one in log.fields(log.Position(path, 0, 0) for path in paths):
        said, to = str(one.get("message", "")), str(one.get("to", "")).lower()
        result = next((name for name, words in (("sent", _SENT), ("failed", _FAILED)) if words in said), "")
        if not result or (about and to != address.lower() and not (not address and to.endswith(f"@{domain}"))):
            continue
        why = "" if result == "sent" else log.redact(_ADDRESS.sub(lambda a: suppression.masked(a[0]), _reason(one)))
        counts[result, why] += 1
        times.setdefault((result, why), []).append(str(one.get("timestamp", "")))
    return [
        {"result": result, "times": str(n), "first": min(times[result, why])[:19], "last": max(times[result, why])[:19],
         "why": why}
        for (result, why), n in counts.most_common()
    ]  # fmt: skip


def tried(environment: Deployment) -> str:
    """Try a message of the API's sender in sandbox mode, which delivers nothing; give the refusal, empty if taken."""
    to = sendgrid.settings(environment).sender
    body = _message(environment, to) | {"mail_settings": {"sandbox_mode": {"enable": True}}}
    answer = sendgrid.ask(environment, "/v3/mail/send", "POST", body, acts=False)
    return "" if answer.status == 200 else answer.problem or f"HTTP {answer.status}, expected 200"


def send(environment: Deployment, to: str) -> Change:
    """Make the change that sends one message to an address. SendGrid's 202 says accepted, and not delivered."""
    address, _ = suppression.parse(to)
    if not address:
        raise BadParameter(f"send_to: found the domain {to[:80]!a}, expected an address")

    def do() -> None:
        answer = sendgrid.ask(environment, "/v3/mail/send", "POST", _message(environment, address))
        if answer.status == 0:
            raise ChangeFailed(f"{answer.problem}: whether the message was taken is not known; look in its mailbox")
        if answer.status != 202:
            raise ChangeFailed(f"SendGrid did not take the message: {answer.problem or f'HTTP {answer.status}'}")

    return Change(
        f"Send a message to {address}",
        [act(f"POST /v3/mail/send from {sendgrid.settings(environment).sender} to {address}", run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: f"the mailbox of {address}",
    )


def causes(
    environment: Deployment, *, scope: frozenset[str], hooks: Rows | None, sends: Rows, held: Rows, refusal: str
) -> list[Finding]:
    """Give each thing that keeps mail from arriving, or its fate from being known, with what to do.

    `hooks` is None where they are not known, which is no cause: a key need not be able to see them. `refusal` is what
    SendGrid said when it did not take the message of `tried`; empty if it took it.
    """
    found = [_cause(f"the key lacks the scope {name}", "Give it to the key in SendGrid: Settings > API Keys")
             for name in sorted(sendgrid.settings(environment).needs - scope)]  # fmt: skip
    if FULL in scope:
        found.append(_cause("the key has full access", "Mail arrives; make one with mail.send alone, and replace it"))
    if refusal:
        found.append(_cause(f"SendGrid takes no message: {refusal}", remedy(refusal)))
    found += [_cause(f"{row['address']} is among the {row['list']}: {row['why']}", _release(row)) for row in held]
    found += [_cause(f"the event webhook {row['url']} {row['wrong']}", "Mend it in SendGrid: Settings > Mail Settings")
              for row in hooks or [] if row["wrong"]]  # fmt: skip
    path = sendgrid.settings(environment).webhook
    if path and hooks is not None and not any(row["url"].endswith(path) for row in hooks):
        found.append(_cause(f"no event webhook goes to {path}", "Add one in SendGrid: Settings > Mail Settings"))
    found += [_cause(f"{row['times']} sends of the API failed: {row['why']}", remedy(row["why"]))
              for row in sends if row["result"] == "failed"]  # fmt: skip
    return found


def _webhook(one: dict[str, Any]) -> dict[str, str]:
    missing = [name for name in EVENTS if one.get(name) is not True]
    wrong = [*(["is disabled"] if one.get("enabled") is not True else []),
             *([f"does not send {', '.join(missing)}"] if missing else []),
             *(["is not signed, so anybody can make up its events"] if not one.get("public_key") else [])]  # fmt: skip
    return {
        "url": str(one.get("url", "")),
        "enabled": "yes" if one.get("enabled") is True else "no",
        "signed": "yes" if one.get("public_key") else "no",
        "wrong": ", ".join(wrong),
    }


def _message(environment: Deployment, to: str) -> dict[str, Any]:
    return {
        "personalizations": [{"to": [{"email": to}]}],
        "from": {"email": sendgrid.settings(environment).sender},
        "subject": "PropertyPulse: a test of mail delivery",
        "content": [
            {"type": "text/plain", "value": "This message was sent by check_email_delivery. Nothing is wrong."}
        ],
    }


def _reason(entry: dict[str, Any]) -> str:
    code = entry.get("code")
    return " ".join(str(part) for part in (entry.get("error") or "no reason in the log", code and f"({code})") if part)


def _cause(what: str, do: str) -> Finding:
    return Finding(what, do=f"{do}.")


def _release(row: dict[str, str]) -> str:
    if row["list"] in suppression.RELEASABLE:
        return f"Once its reason is gone: -p release ADDRESS -p release_from {row['list']}"
    return "Nothing: it is their wish. They take it back by the link in a message"


_REMEDIES = {
    r"key is refused|401|Unauthorized": "Put a valid key into the .env as SENDGRID_API_KEY, then restart_api",
    r"[Ss]ender|verified": "Verify the sender in SendGrid: Settings > Sender Authentication",
    r"not permitted|403|Forbidden": "Give the key the scope mail.send in SendGrid: Settings > API Keys",
    r"rate|429|Too Many": "Wait, and find out what sends so much: Activity in SendGrid",
    r"no answer|ECONN|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|getaddrinfo": "Mend the way out of here: DNS, firewall, proxy",
    r"HTTP 5|no JSON|Internal": "SendGrid is ill: see its status page, and run again",
    r"Maximum credits|credits": "The plan's messages are used up: raise it in SendGrid",
}


def remedy(reason: str) -> str:
    """Say what to do about a reason, as SendGrid, the network or the API's log words it."""
    return next((do for words, do in _REMEDIES.items() if re.search(words, reason)), "Look the reason up at SendGrid")
