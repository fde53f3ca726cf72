"""Proofs of what an environment's file says of mail: the key, what it may do, the sender, and SendGrid's events."""

from collections.abc import Callable, Iterator
from functools import partial

from opslib.deployment import proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.mail import mail, sendgrid, suppression
from opslib.mail.settings import Mail
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, RunbookError


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. No message is delivered: the sender is asked about in SendGrid's sandbox mode."""
    if (settings := environment.find(Mail)) is None:
        return
    scopes = once(lambda: mail.scopes(environment))
    yield Proof("mail.key", settings.url, partial(_key, settings, scopes))
    yield Proof("mail.needs", settings.url, partial(_needs, settings, scopes))
    yield Proof("mail.sender", settings.url, partial(_sender, environment, settings, scopes))
    if settings.webhook:
        yield Proof("mail.webhook", settings.url, partial(_webhook, environment, settings.webhook))
    if settings.reader:
        yield Proof("mail.reader", settings.url, partial(_reader, environment, settings.reader))


def _key(settings: Mail, scopes: Callable[[], Answer]) -> Answer:
    try:
        found = scopes()
    except BadEnvironment as error:
        return Answer(False, str(error))
    if not found:
        return Answer(found.ok, f"SendGrid does not say that it knows {settings.key} of the .env", found.otherwise)
    full = ", with full access, which mail does not need" if mail.FULL in found.evidence else ""
    return Answer(True, f"SendGrid knows {settings.key} of the .env{full}")


def _known(scopes: Callable[[], Answer]) -> set[str]:
    """Give what the key may do. Raise RunbookError if SendGrid does not say."""
    if not (found := scopes()):
        raise RunbookError("SendGrid does not say what the key may do")
    return {*found.evidence}


def _needs(settings: Mail, scopes: Callable[[], Answer]) -> Answer:
    if lacking := sorted(settings.needs - _known(scopes)):
        return Answer(False, f"the key lacks {', '.join(lacking)}", "Give it that in SendGrid: Settings > API Keys.")
    return Answer(True, f"the key has {', '.join(sorted(settings.needs))}")


def _sender(environment: Deployment, settings: Mail, scopes: Callable[[], Answer]) -> Answer:
    if "mail.send" not in _known(scopes):
        raise RunbookError("the key may not send")
    sender, verified = settings.sender, mail.verified(environment, settings.sender)
    if verified:
        return Answer(True, f"SendGrid has verified {sender}")
    takes = mail.takes(environment)
    if not takes:
        remedy = mail.remedy(takes.otherwise)
        return Answer(takes.ok, f"SendGrid takes no message of {sender}: {takes.otherwise}", f"{remedy}.")
    if verified is False:
        mend = "Look into SendGrid: Settings > Sender Authentication."
        return Answer(None, f"SendGrid takes a message of {sender}, and lists neither it nor its domain", mend)
    return Answer(True, f"SendGrid takes a message of {sender} in sandbox mode; its list of senders is not for the key")


def _webhook(environment: Deployment, path: str) -> Answer:
    hooks = mail.webhooks(environment)
    if not hooks:
        why = "; ".join(map(str, hooks.evidence.values()))
        raise RunbookError(
            f"which webhooks there are is not known: {why}. Name a key as `mail.reader` that may see them"
        )
    mend = "Mend it in SendGrid: Settings > Mail Settings."
    if not (ours := [one for one in hooks.evidence if one.url.endswith(path)]):
        return Answer(False, f"no event webhook goes to {path}", mend)
    wrong = [] if ours[0].enabled else ["is disabled"]
    wrong += [f"does not send {ours[0].lacks}"] if ours[0].lacks else []
    return Answer(not wrong, f"the event webhook {ours[0].url} {' and '.join(wrong) or 'sends what is wanted'}", mend)


def _reader(environment: Deployment, reference: str) -> Answer:
    if not (given := proof.reference(reference, "SENDGRID_READER")):
        return given
    path = suppression.LISTS["bounces"]
    reply = sendgrid.ask(environment, f"{path}?limit=1")
    if reply.status in (401, 403):
        return Answer(False, f"GET {path}: {reply.problem}", "Put a key there that may read suppressions.")
    if reply.problem:
        raise RunbookError(f"GET {path}: {reply.problem}")
    return Answer(True, "it may read suppressions")
