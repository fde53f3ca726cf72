"""The Stripe account, as one of its keys sees it: whose key it is, and what it may do.

Only GETs, so that nothing is paid, and each may be asked again. Stripe has no public API for the keys themselves: a
person makes and expires them in the Dashboard, and this module looks at the result.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from stripe import (
    APIConnectionError,
    AuthenticationError,
    ListObject,
    PermissionError,
    RateLimitError,
    RequestsClient,
    StripeClient,
    StripeError,
)

from opslib.deployment import secret_reference
from opslib.deployment.deployment import Deployment
from opslib.deployment.env_file import fingerprint
from opslib.payments.settings import Stripe
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError

T = TypeVar("T")

KEY = re.compile(r"(?:sk|rk)_(?P<mode>live|test)_[A-Za-z0-9_]+")
TIMEOUT = 10
"""Seconds for one answer; the library asks twice more after none, or a 5xx."""
PAUSES = (1, 2, 4)
"""Seconds between questions that Stripe answers with 429, which the library does not ask again."""
LONGEST = 30
"""Seconds that a Retry-After may ask for; what asks for more is not waited for."""
BAD_KEY = "refused: the key is wrong or expired"
NOT_PERMITTED = "not permitted to this key"


@dataclass(frozen=True)
class Identity:
    """Whose key it is: the account's id, and whether it is of live mode; where not known, why Stripe does not say."""

    key: str
    fingerprint: str
    account: str
    live: bool | None
    no_account: str = ""
    no_mode: str = ""


@dataclass(frozen=True)
class Permission:
    """What the API needs, the call that shows whether the key may, and what Stripe said where it did not answer it."""

    needs: str
    call: str
    permitted: bool | None
    said: str


def settings(environment: Deployment) -> Stripe:
    """Give the environment's `stripe` part. Raise BadEnvironment if it has none."""
    return environment.part(Stripe)


def client(environment: Deployment, key: str) -> StripeClient:
    """Give a client that asks with this key."""
    return StripeClient(
        key,
        base_addresses={"api": settings(environment).url},
        http_client=RequestsClient(timeout=TIMEOUT),
        max_network_retries=2,
    )


def reader(environment: Deployment, key: str) -> StripeClient:
    """Give a client that reads events and endpoints: with the key that the environment names, else with this one."""
    named = settings(environment).reader
    return client(environment, secret_reference.resolve(named, "STRIPE_READER") if named else key)


def ask(call: Callable[[], T]) -> tuple[T | None, str]:
    """Make a call that may be made again; give what came, or None and why nothing did. Waits while Stripe is busy."""
    waited = 0.0
    for pause in (*PAUSES, None):
        try:
            return call(), ""
        except RateLimitError as error:
            asked = _retry_after(error)
            if pause is None or asked > LONGEST:
                asks = f", and asks for {asked:g} s more" if asked else ""
                return None, f"Stripe limits the rate, still after {waited:g} s (HTTP 429){asks}"
            time.sleep(max(pause, asked))
            waited += max(pause, asked)
        except AuthenticationError:
            return None, BAD_KEY
        except PermissionError:
            return None, NOT_PERMITTED
        except APIConnectionError:
            return None, f"no answer from Stripe within {TIMEOUT} s, asked three times"
        except StripeError as error:
            return None, f"HTTP {error.http_status}: {error.user_message}"
    raise AssertionError("not reached")


def pages(listing: Callable[[Any], ListObject[Any]], **asked: Any) -> Iterator[Any]:
    """Give what a list holds, page by page and newest first; each page may be asked for again.

    `listing` is the list call of a service. Raise RunbookError if Stripe does not give a page.
    """
    while True:
        page, problem = ask(partial(listing, {"limit": 100, **asked}))
        if page is None:
            raise RunbookError(f"what Stripe lists is not known: {problem}. Run again when Stripe answers.")
        yield from page.data
        if not page.has_more or not page.data:
            return
        asked = {**asked, "starting_after": page.data[-1].id}


def identity(environment: Deployment, name: str, key: str) -> Identity:
    """Say of a key which account and mode it belongs to."""
    stripe = client(environment, key)
    account, no_account = ask(lambda: stripe.v1.accounts.retrieve_current())
    balance, no_balance = ask(lambda: stripe.v1.balance.retrieve())
    return Identity(
        name,
        fingerprint(key),
        account.id if account else "",
        None if balance is None else bool(balance.livemode),
        no_account,
        no_balance,
    )


def belongs(environment: Deployment, keys: Mapping[str, str]) -> Answer:
    """Whether the first of these keys, by name, is of the mode and account that it must be of, as the others are."""
    return same(environment, [identity(environment, name, key) for name, key in keys.items()])


def same(environment: Deployment, found: Sequence[Identity]) -> Answer:
    """Judge whose keys these are: the first must be of this mode, and all that tell of one account.

    A key that may not ask for its account is taken at its mode; what Stripe did not answer cannot be told.
    """
    wanted, new = settings(environment), found[0]
    accounts = {one.account for one in found if one.account} | ({wanted.account} - {""})
    wrong = len(accounts) > 1 or new.live is (wanted.mode != "live") or BAD_KEY in (new.no_account, new.no_mode)
    told = {new.no_account, new.no_mode} <= {"", NOT_PERMITTED}
    otherwise = f"Copy a key of this account and of {wanted.mode} mode from the Dashboard."
    return Answer(False if wrong else told or None, found, otherwise if wrong else "Run again when Stripe answers.")


def permitted(environment: Deployment, key: str) -> Answer:
    """Whether the key may do what the API needs: one GET for each, which tells what it may read."""
    stripe = client(environment, key)
    found = []
    for name in settings(environment).needs:
        words = "retrieve()" if name == "balance" else "list({'limit': 1})"
        problem = ask(partial(_get, stripe, name))[1]
        found.append(Permission(name, f"v1.{name}.{words}", _known(problem), problem))
    denied, unknown = [[one.needs for one in found if one.permitted is wanted] for wanted in (False, None)]
    otherwise = f"Permit it in the Dashboard: {', '.join(denied)}." if denied else "Run again when Stripe answers."
    return Answer(False if denied else not unknown or None, found, otherwise)


def accepted(environment: Deployment, key: str) -> Answer:
    """Whether Stripe takes the key, also where it does not permit it to see the balance; no answer is not a yes."""
    problem = _problem(environment, key)
    return Answer(problem in ("", NOT_PERMITTED), _asked(key, problem), "The API can take no payment with it.")


def refused(environment: Deployment, key: str) -> Answer:
    """Whether Stripe knows the key no more; no answer is not a refusal."""
    problem = _problem(environment, key)
    known = problem in ("", NOT_PERMITTED, BAD_KEY)
    return Answer(problem == BAD_KEY if known else None, _asked(key, problem), "Expire it in the Dashboard.")


def _retry_after(error: RateLimitError) -> float:
    """Seconds that Stripe asks to wait for; 0 if it does not say, or says a date."""
    value = {key.lower(): value for key, value in (error.headers or {}).items()}.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0


def _get(stripe: StripeClient, name: str) -> object:
    service = getattr(stripe.v1, name)
    return service.retrieve() if name == "balance" else service.list({"limit": 1})


def _problem(environment: Deployment, key: str) -> str:
    return ask(lambda: client(environment, key).v1.balance.retrieve())[1]


def _asked(key: str, problem: str) -> dict[str, str]:
    return {"fingerprint": fingerprint(key), "v1.balance.retrieve()": problem or "accepted"}


def _known(problem: str) -> bool | None:
    """Whether a call was permitted, by what came of it; None where that does not tell."""
    return {"": True, NOT_PERMITTED: False, BAD_KEY: False}.get(problem)
