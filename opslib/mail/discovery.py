"""What is found of mail for an environment's file: in the `.env` and the code, and at SendGrid by the API's own key."""

import re
from collections.abc import Iterator, Mapping
from email.utils import parseaddr
from typing import Any
from urllib.parse import urlsplit

from opslib.api import release, route, variable
from opslib.api.variable import Variable
from opslib.deployment import env_file, secret_reference
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.mail import mail, sendgrid
from opslib.mail.sendgrid import Reply
from opslib.mail.settings import Mail
from opslib.runbook.errors import RunbookError

BEGINS = "SG."
"""What every key of SendGrid's begins with."""
HOSTS = ("SENDGRID_API_BASE", "SENDGRID_API_URL", "SENDGRID_BASE_URL", "SENDGRID_URL", "SENDGRID_HOST")
SENDERS = (
    *("EMAIL_FROM", "FROM_EMAIL", "MAIL_FROM", "SENDGRID_FROM_EMAIL", "SENDGRID_FROM", "SENDGRID_SENDER"),
    *("SENDGRID_FROM_ADDRESS", "EMAIL_FROM_ADDRESS", "MAIL_FROM_ADDRESS", "FROM_ADDRESS", "SENDER_EMAIL"),
    *("EMAIL_SENDER", "SENDGRID_SENDER_EMAIL", "SENDGRID_VERIFIED_SENDER", "DEFAULT_FROM_EMAIL", "NOREPLY_EMAIL"),
)
READER = "A reference to a key that may read suppressions and event webhooks"
EUROPE = "https://api.eu.sendgrid.com"
"""Where SendGrid answers for an account in Europe, which the code says with setDataResidency."""

Found = Iterator[Line | Asked]


def discover(environment: Deployment, given: Mapping[str, Any]) -> Found:
    """Give each line of `mail` that the `.env`, the code and SendGrid tell, and ask for the rest. Nothing is sent.

    Nothing is given where the `.env` has no key of SendGrid's.
    """
    keys = _keys(environment)
    if not keys:
        return
    if len(keys) > 1 and "mail.key" not in given:
        yield Asked("mail.key", f"By which of these the API sends: {', '.join(keys)}.", keys[0])
        return
    name = str(given.get("mail.key") or keys[0])
    hosts = _hosts(environment)
    if len(hosts) > 1:
        yield Asked("mail.url", f"Where the API reaches SendGrid: {variable.said(hosts)}.", hosts[0].value)
        return
    if hosts:
        yield Line("mail.url", hosts[0].value.rstrip("/"), hosts[0].source)
    reader = str(given.get("mail.reader", ""))
    try:
        if reader:
            secret_reference.resolve(reader, "SENDGRID_READER")
    except RunbookError as error:
        yield Asked("mail.reader", f"{READER}: {error}.")
        reader = ""
    said: dict[str, Any] = {"key": name, "reader": reader} | ({"url": hosts[0].value.rstrip("/")} if hosts else {})
    asked = environment.model_copy(update={"mail": Mail.model_construct(**said)})
    known = sendgrid.ask(asked, "/v3/scopes")
    if known.problem:
        yield Asked(
            "mail.key", f"The value of {name} in the .env begins as a key of SendGrid's; {known.problem}.", name
        )
    else:
        yield Line("mail.key", name, "its value in the .env begins with SG., and SendGrid takes it")
    yield _sender(asked, known)
    yield from _webhook(asked, known)
    yield from _reader(asked, known)


def _keys(environment: Deployment) -> list[str]:
    """Give the keys of the `.env` that have a key of SendGrid's: those that the code names, if it names some."""
    found = [name for name, value in env_file.read(environment.api.env_file).items() if value.startswith(BEGINS)]
    return [name for name in found if release.naming(environment, name)] or found


def _hosts(environment: Deployment) -> list[Variable]:
    """Give what the code says of where SendGrid answers, if that is not where it does for most."""
    # One without a scheme is a mail server's.
    found = [one for one in variable.values(variable.read(environment, HOSTS)) if "://" in one.value]
    europe = release.search(environment.api.release, r"""setDataResidency\(\s*["']eu["']""")
    found += [Variable("", EUROPE, f"the code says it ({at})") for at, _ in europe][:1]
    return [one for one in found if one.value.rstrip("/") != Mail.model_fields["url"].default]


def _sender(environment: Deployment, known: Reply) -> Line | Asked:
    key, what = "mail.sender", "The address that the API sends from, which SendGrid knows as verified"
    found = variable.values(variable.read(environment, SENDERS)) or _literal(environment)
    addresses = {parseaddr(one.value)[1].lower(): one for one in found if "@" in parseaddr(one.value)[1]}
    if not addresses:
        return Asked(key, f"{what}: no variable that is usual for it names one.", "no-reply@example.com")
    if len(addresses) > 1:
        return Asked(key, f"{what}: {variable.said(found)}.", next(iter(addresses)))
    ((_, one),) = addresses.items()
    address = parseaddr(one.value)[1]
    if known.problem:
        return Asked(key, f"{what}: {one.source} says {address}; whether it is verified is not known.", address)
    verified = mail.verified(environment, address)
    if verified is False:
        return Asked(
            key, f"{what}: {one.source} says {address}, and SendGrid knows neither it nor its domain.", address
        )
    seen = "SendGrid knows it as verified" if verified else "whether SendGrid knows it its key may not ask"
    return Line(key, address, f"{one.source}; {seen}")


def _literal(environment: Deployment) -> list[Variable]:
    """Give the senders that the code itself says where it sends by SendGrid."""
    sends = {at.file for at, _ in release.search(environment.api.release, "(?i)sendgrid")}
    found = release.search(environment.api.release, r"""(?i)\bfrom\b[^@\n]*?["'`<]([\w.+-]+@[\w.-]+\.\w+)[>"'`]""")
    return [Variable("", words[1], f"the code says it ({at})") for at, words in found if at.file in sends]


def _webhook(environment: Deployment, known: Reply) -> Found:
    """Give the path of the API's that gets SendGrid's events: where SendGrid sends them, and what the code takes."""
    key, what = "mail.webhook", "The path of the API that takes SendGrid's events"
    taken = [one for one in route.routes(environment.api.release, "post") if _takes_events(one.path)]
    hooks = mail.webhooks(environment) if not known.problem else None
    if hooks:
        here = urlsplit(environment.api.url).netloc
        ours = [
            (url.path, one.url)
            for one in hooks.evidence
            for url in [urlsplit(one.url)]
            if url.netloc == here or url.path in [one.path for one in taken]
        ]
        if len({path for path, _ in ours}) == 1:
            yield Line(key, ours[0][0], f"SendGrid sends its events to {_shown(ours[0][1])}")
            return
        if hooks.evidence and not taken:
            others = ", ".join(_shown(one.url) for one in hooks.evidence)
            yield Asked(key, f"{what}: SendGrid sends them to {others}, and no route of the code is known that does.")
            return
    if len(taken) == 1:
        yield Line(key, taken[0].path, f"the code takes them there ({taken[0].line})")
    elif taken:
        yield Asked(key, f"{what}: one of {', '.join(map(str, taken))}.")
    elif hooks is None or not hooks.ok:
        why = known.problem or "the API's key may not ask SendGrid for it"
        yield Asked(key, f"{what}, if it takes any: none of the code's routes is known to, and {why}.")
    else:
        yield Line(key, "", "SendGrid has no event webhook, and no route of the code takes its events")


def _takes_events(path: str) -> bool:
    return bool(re.search(r"(?i)sendgrid", path) and re.search(r"(?i)webhook|event|hook", path))


def _reader(environment: Deployment, known: Reply) -> Found:
    """Ask for a key that may read suppressions, if the API's own may not."""
    if known.problem:
        return
    reader, reply = environment.part(Mail).reader, sendgrid.ask(environment, "/v3/suppression/bounces?limit=1")
    if reply.problem:
        whose = "that which was given" if reader else "the API's own key"
        yield Asked("mail.reader", f"{READER}: {whose} may not ({reply.problem}).")
    elif reader:
        yield Line("mail.reader", reader, "given; it may read suppressions")


def _shown(url: str) -> str:
    """Show an address without what may be secret in it."""
    at = urlsplit(url)
    return f"{at.scheme}://{at.hostname}{f':{at.port}' if at.port else ''}{at.path}"
