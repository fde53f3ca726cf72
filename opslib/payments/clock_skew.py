"""Clock skew, of Stripe's clock, the API's and this machine's: a signature is good for five minutes only."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import urllib3

from opslib.api import health
from opslib.deployment.deployment import Deployment
from opslib.payments.stripe_account import settings
from opslib.runbook.answer import Answer

APART = 60
"""Seconds by which clocks may differ: a fifth of what Stripe's libraries tolerate."""
NEARLY = 5
"""Seconds by which a line may have been stamped before the first or after the last of what was timed."""


class Seconds(float):
    """A difference in seconds, which people are shown with its sign and without fractions."""

    def __str__(self) -> str:
        return f"{round(self):+d} s"


@dataclass(frozen=True)
class Clock:
    """A clock, and by how much it is ahead of this machine's; None if that is not known."""

    clock: str
    ahead: Seconds | None


def measured(times: Sequence[float], begun: float, ended: float) -> float | None:
    """Give by how many seconds a clock is fast that has stamped these times, from our `begun` to our `ended`.

    0 where they lie between, or nearly: then it is as right as ours, for all that is known. None without a time.
    """
    if not times:
        return None
    least, most = max(times) - ended, min(times) - begun
    return 0.0 if least <= NEARLY and most >= -NEARLY else (least + most) / 2


def read(environment: Deployment, skew: float | None) -> list[Clock]:
    """Give by how many seconds each clock is fast, measured against this machine's.

    `skew` is by how many seconds the API's is, by the times in its log; None if the log does not tell.
    """
    return [
        Clock("Stripe, by the Date of its answer", _date(settings(environment).url)),
        Clock("the API, by the Date of its answer", _date(environment.api.health_url)),
        Clock("the API, by the times in its log", None if skew is None else Seconds(skew)),
    ]


def agree(clocks: Sequence[Clock]) -> Answer:
    """Whether none of the clocks that are known is off by more than APART seconds, and Stripe's is known.

    Says which one is off: this machine's, if Stripe's is ahead of or behind it, else the API's alone.
    """
    stripe = clocks[0]
    off = [one for one in clocks if one.ahead is not None and abs(one.ahead) > APART]
    if stripe in off:
        return Answer(False, clocks, f"Stripe is ahead of this machine by {stripe.ahead}: set it (chronyc makestep)")
    if off:
        return Answer(
            False, clocks, f"the API is ahead of this machine by {off[-1].ahead}: set the clock that it runs by"
        )
    return Answer(None if stripe.ahead is None else True, clocks, "Stripe did not say what time it is: run again")


def _date(url: str) -> Seconds | None:
    """By how many seconds the clock behind this address is fast; a Date is cut to the second, so half one is added."""
    try:
        begun = time.time()
        got = urllib3.request("GET", url, timeout=health.TIMEOUT, retries=False, redirect=False)
        return Seconds(parsedate_to_datetime(got.headers["Date"]).timestamp() + 0.5 - (begun + time.time()) / 2)
    except (urllib3.exceptions.HTTPError, KeyError, ValueError, TypeError):
        return None
