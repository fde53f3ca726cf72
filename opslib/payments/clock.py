"""Clocks: by how much Stripe's, the API's and this machine's differ. A signature is good for five minutes only."""

import time
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime

import urllib3

from opslib.api import health
from opslib.deployment.environment import Deployment
from opslib.payments.stripe_account import settings

APART = 60
"""Seconds by which clocks may differ: a fifth of what Stripe's libraries tolerate."""
NEARLY = 5
"""Seconds by which a line may have been stamped before the first or after the last of what was timed."""


def skew(times: Sequence[float], begun: float, ended: float) -> float | None:
    """Give by how many seconds a clock is fast that has stamped these times, from our `begun` to our `ended`.

    0 where they lie between, or nearly: then it is as right as ours, for all that is known. None without a time.
    """
    if not times:
        return None
    least, most = max(times) - ended, min(times) - begun
    return 0.0 if least <= NEARLY and most >= -NEARLY else (least + most) / 2


def read(environment: Deployment, skew: float | None) -> list[dict[str, str]]:
    """Give by how many seconds each clock is fast, measured against this machine's.

    `skew` is by how many seconds the API's is, by the times in its log; None if the log does not tell.
    """
    shown = {
        "Stripe, by the Date of its answer": _date(settings(environment).url),
        "the API, by the Date of its answer": _date(environment.api.health_url),
        "the API, by the times in its log": skew,
    }
    return [{"clock": name, "ahead of this machine": _seconds(value)} for name, value in shown.items()]


def agree(rows: Iterable[dict[str, str]]) -> bool:
    """Whether none of the clocks that are known is off by more than APART seconds, and Stripe's is known."""
    told = [row["ahead of this machine"] for row in rows]
    return told[0] != "not known" and all(t == "not known" or abs(int(t.removesuffix(" s"))) <= APART for t in told)


def _date(url: str) -> float | None:
    """By how many seconds the clock behind this address is fast; a Date is cut to the second, so half one is added."""
    try:
        begun = time.time()
        got = urllib3.request("GET", url, timeout=health.TIMEOUT, retries=False, redirect=False)
        return parsedate_to_datetime(got.headers["Date"]).timestamp() + 0.5 - (begun + time.time()) / 2
    except (urllib3.exceptions.HTTPError, KeyError, ValueError, TypeError):
        return None


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{round(value):+d} s"
