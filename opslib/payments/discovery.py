"""What an environment's file says of Stripe, as far as the `.env`, the API's code and the account tell."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import urlsplit

from stripe import StripeClient, WebhookEndpoint

from opslib.api import variable
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.payments import stripe_account, stripe_code, table_discovery, webhook_endpoint
from opslib.payments.settings import Stripe
from opslib.payments.stripe_account import BAD_KEY, NOT_PERMITTED, ask
from opslib.payments.stripe_code import Code
from opslib.payments.stripe_rotation import KEY
from opslib.runbook.errors import RunbookError, first_line

MODE = "Whether the keys are of test or live mode."
PATH = "The path that Stripe delivers events to."
OWN = "stripe.com"
DEFAULT: str = Stripe.model_fields["url"].default
WEBHOOK: str = Stripe.model_fields["webhook"].default
MOST = 20
"""Types of event that Stripe lists at once."""
BASES = tuple(map("".join, product(("STRIPE_",), ("", "API_"), ("BASE", "HOST", "URL", "ENDPOINT"), ("", "_URL"))))
"""What a variable is called that has the address of Stripe."""


@dataclass(frozen=True)
class Account:
    """The account as it can be asked; `client` is None and `why` says so where nobody can."""

    client: StripeClient | None
    why: str = ""
    endpoints: Sequence[WebhookEndpoint] | None = None
    """None where the key may not list them, or Stripe does not answer."""


def discover(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what was found of Stripe and of payments, and what is to be asked.

    It reads, and raises nothing for a Stripe or a PostgreSQL that does not answer.
    """
    try:
        found = list(_found(environment, given))
    except (RunbookError, OSError, ValueError) as error:  # .env or code cannot be read, or what was given is none
        why = first_line(error)
        found = [Asked("stripe.mode", f"{MODE} {why}", "live"), Asked("stripe.webhook", f"{PATH} {why}", WEBHOOK)]
    yield from found


def _found(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    held, code = env_file.read(environment.api.env_file), stripe_code.read(environment.api.release)
    url = list(_url(environment, code))
    yield from url
    named = str(given.get("stripe.url") or next((one.value for one in url if isinstance(one, Line)), ""))
    mode = _mode(held)
    yield mode
    if isinstance(mode, Asked):
        account = Account(None, f"the .env has no key of Stripe's as {KEY}")
    elif url and not named:
        account = Account(None, "where Stripe answers is not known")
    else:
        part = Stripe(mode=mode.value, reader=str(given.get("stripe.reader", "")), url=named or DEFAULT)
        environment = environment.model_copy(update={"stripe": part})
        account = yield from _account(environment, held[KEY])
    path = yield from _webhook(environment, code, account, str(given.get("stripe.webhook", "")))
    endpoint = _endpoint(environment, account, path)
    yield endpoint
    named = str(given.get("stripe.endpoint") or (endpoint.value if isinstance(endpoint, Line) else ""))
    yield _handles(code, next((one for one in account.endpoints or () if one.id == named), None))
    yield from table_discovery.discover(environment, account.client)


def _mode(held: Mapping[str, str]) -> Line | Asked:
    if match := stripe_account.KEY.fullmatch(held.get(KEY, "")):
        return Line("stripe.mode", match["mode"], f"{KEY} of the .env is a key of {match['mode']} mode")
    others = sorted(key for key, value in held.items() if stripe_account.KEY.fullmatch(value))
    there = f"it has {', '.join(others)}; rename that" if others else "it has no other"
    what = f"{MODE} Procedures look for the key as {KEY} in the .env: {there}."
    return Asked("stripe.mode", what, "live")


def _url(environment: Deployment, code: Code) -> Iterator[Line | Asked]:
    """Find where the API finds Stripe, if not at Stripe's own address: no key is sent anywhere else to try."""
    named = [one for one in variable.values(variable.read(environment, BASES)) if not _own(one.value)]
    written = {host: file for host, file in code.hosts.items() if not _own(host)}
    if len(named) == 1 and not written:
        at = urlsplit(named[0].value)
        if at.scheme in ("http", "https") and at.hostname and not at.username:
            yield Line("stripe.url", named[0].value.rstrip("/"), named[0].source)
            return
    if named or written:
        said = [one.source for one in named] + [f"{host} in {file}" for host, file in written.items()]
        what = f"Where Stripe answers, if not at its own address. Another is named: {', '.join(said)}."
        yield Asked("stripe.url", what, DEFAULT)


def _own(address: str) -> bool:
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    return host == OWN or host.endswith(f".{OWN}")


def _account(environment: Deployment, key: str) -> Generator[Line | Asked, None, Account]:
    """Ask whose key it is and which endpoints there are; nothing more of a Stripe that does not answer."""
    client = stripe_account.client(environment, key)
    whose, problem = ask(lambda: client.v1.accounts.retrieve_current())
    if whose:
        yield Line("stripe.account", whose.id, f"Stripe says so of {KEY}")
    else:
        what = "The account's id, by which a key of another account is refused."
        yield Asked("stripe.account", f"{what} Stripe does not say: {problem}.")
    if problem not in ("", NOT_PERMITTED):
        return Account(None, problem)
    try:
        reader = stripe_account.reader(environment, key)
        endpoints = webhook_endpoint.read(reader)
        if (problem := ask(lambda: reader.v1.events.list({"limit": 1}))[1]) in (NOT_PERMITTED, BAD_KEY):
            yield _reader(f"list events: {problem}")
        return Account(client, endpoints=endpoints)
    except RunbookError as error:
        if stripe_account.settings(environment).reader or NOT_PERMITTED in str(error):
            yield _reader(f"list webhook endpoints: {error}")
        return Account(client, str(error))


def _reader(why: str) -> Asked:
    what = "Where a key is that may read events and webhook endpoints and resend events, if the API's own may not."
    return Asked("stripe.reader", f"{what} The one at hand could not {why}")


def _webhook(environment: Deployment, code: Code, account: Account, named: str) -> Generator[Line | Asked, None, str]:
    """Find the path in the code; of several, the one that endpoints of the account have."""
    sent = {_path(one) for one in account.endpoints or ()}
    likely = [path for path in code.paths if path in sent] if len(code.paths) > 1 else [*code.paths]
    if named:
        return named
    if len(likely) != 1:
        shown, there = [", ".join(sorted(one)) or "none" for one in (code.paths, sent)]
        what = f"{PATH} The code shows {shown}, endpoints of the account {there}."
        yield Asked("stripe.webhook", what, WEBHOOK)
        return ""
    (path,) = likely
    source = f"the code checks Stripe's signatures there ({code.paths[path].within(environment.api.release)})"
    if account.endpoints is not None and path not in sent:
        source += "; no endpoint of the account has that path"
    yield Line("stripe.webhook", path, source)
    return path


def _endpoint(environment: Deployment, account: Account, path: str) -> Line | Asked:
    what = "The id of the webhook endpoint that delivers to this API, we_…."
    if account.endpoints is None:
        return Asked("stripe.endpoint", f"{what} Stripe does not say which there are: {account.why}", "we_…")
    there = [one for one in account.endpoints if path and _path(one) == path]
    here = [one for one in there if one.url == f"{environment.api.url}{path}"]
    for found, alone in ((there, "that path"), (here, "this API's own address")):
        if len(found) == 1:
            source = f"of {len(account.endpoints)} endpoints of the account it alone has {alone}: {_shown(found[0])}"
            return Line("stripe.endpoint", found[0].id, source)
    listed = ", ".join(f"{one.id} ({_shown(one)})" for one in there or account.endpoints) or "none"
    which = "With that path" if there else "In the account"
    return Asked("stripe.endpoint", f"{what} {which} there are: {listed}.", "we_..." if len(there) > 1 else "")


def _handles(code: Code, endpoint: WebhookEndpoint | None) -> Line | Asked:
    found = code.handled
    if 0 < len(found) <= MOST:
        lines = ", ".join(dict.fromkeys(str(line.file.name) for line in found.values()))
        sent = set(endpoint.enabled_events) if endpoint else {"*"}
        lacks = [] if "*" in sent else [kind for kind in found if kind not in sent]
        but = f"; {endpoint.id} is not sent {', '.join(lacks)}" if endpoint and lacks else ""
        return Line("stripe.handles", [*found], f"the code tells these from others ({lines}){but}")
    what = "The types of event that the API acts on, at most twenty."
    return Asked("stripe.handles", f"{what} The code names {len(found) or 'none'}.")


def _shown(one: WebhookEndpoint) -> str:
    """Name where an endpoint is and how, without what may be secret in its address."""
    return f"{urlsplit(one.url).hostname}{_path(one)}, {one.status}"


def _path(one: WebhookEndpoint) -> str:
    return urlsplit(one.url).path
