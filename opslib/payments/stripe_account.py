"""The Stripe account, as one of its keys sees it: whose key it is, and what it may do.

Only GETs, so that nothing is paid, and each may be asked again. Stripe has no public API for the keys themselves: a
person makes and expires them in the Dashboard, and this module looks at the result.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
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

from opslib.deployment import reference
from opslib.deployment.env_file import fingerprint
from opslib.deployment.environment import Deployment
from opslib.payments.settings import Stripe
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
    return client(environment, reference.resolve(named, "STRIPE_READER") if named else key)


def said(call: Callable[[], T]) -> tuple[T | None, str]:
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


def pages(ask: Callable[[Any], ListObject[Any]], **asked: Any) -> Iterator[Any]:
    """Give what a list holds, page by page and newest first; each page may be asked for again.

    `ask` is the list call of a service. Raise RunbookError if Stripe does not give a page.
    """
    while True:
        page, problem = said(partial(ask, {"limit": 100, **asked}))
        if page is None:
            raise RunbookError(f"what Stripe lists is not known: {problem}. Run again when Stripe answers.")
        yield from page.data
        if not page.has_more or not page.data:
            return
        asked = {**asked, "starting_after": page.data[-1].id}


def identity(environment: Deployment, name: str, key: str) -> dict[str, str]:
    """Say of a key which account and mode it belongs to: an id and `live` or `test`, else why Stripe does not say."""
    stripe = client(environment, key)
    account, no_account = said(lambda: stripe.v1.accounts.retrieve_current())
    balance, no_balance = said(lambda: stripe.v1.balance.retrieve())
    mode = no_balance if balance is None else "live" if balance.livemode else "test"
    return {
        "key": name,
        "fingerprint": fingerprint(key),
        "account": account.id if account else no_account,
        "mode": mode,
    }


def belongs(environment: Deployment, rows: Sequence[dict[str, str]]) -> bool:
    """Whether the key of the first row is of the mode and account that it must be of, which are those of the others.

    A key that may not ask for its account is taken at its mode; one that Stripe does not answer is not.
    """
    wanted, new = settings(environment), rows[0]
    ids = {row["account"] for row in rows if row["account"].startswith("acct_")} | ({wanted.account} - {""})
    told = new["account"] == NOT_PERMITTED or new["account"].startswith("acct_")
    return told and new["mode"] in (wanted.mode, NOT_PERMITTED) and len(ids) <= 1


def permissions(environment: Deployment, key: str) -> list[dict[str, str]]:
    """Ask one GET for each thing that the API needs; `answer` is `permitted`, or what Stripe said instead."""
    stripe = client(environment, key)
    rows = []
    for name in settings(environment).needs:
        words = "retrieve()" if name == "balance" else "list({'limit': 1})"
        answer = said(partial(_get, stripe, name))[1] or "permitted"
        rows.append({"needs": name, "call": f"v1.{name}.{words}", "answer": answer})
    return rows


def accepted(environment: Deployment, key: str) -> tuple[bool, dict[str, str]]:
    """Whether Stripe takes the key, also where it does not permit it to see the balance."""
    answer = _answer(environment, key)
    return answer in ("accepted", NOT_PERMITTED), {"fingerprint": fingerprint(key), "v1.balance.retrieve()": answer}


def refused(environment: Deployment, key: str) -> tuple[bool, dict[str, str]]:
    """Whether Stripe knows the key no more; no answer is not a refusal."""
    answer = _answer(environment, key)
    return answer == BAD_KEY, {"fingerprint": fingerprint(key), "v1.balance.retrieve()": answer}


def _retry_after(error: RateLimitError) -> float:
    """Seconds that Stripe asks to wait for; 0 if it does not say, or says a date."""
    value = {key.lower(): value for key, value in (error.headers or {}).items()}.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0


def _get(stripe: StripeClient, name: str) -> object:
    service = getattr(stripe.v1, name)
    return service.retrieve() if name == "balance" else service.list({"limit": 1})


def _answer(environment: Deployment, key: str) -> str:
    return said(lambda: client(environment, key).v1.balance.retrieve())[1] or "accepted"
