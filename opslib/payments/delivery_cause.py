"""Causes of a failed delivery: what stands between an event and its effect, and the procedure or step that mends it."""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What stands between an event and its effect."""

    DISABLED = "endpoint disabled"
    WRONG_URL = "endpoint leads elsewhere"
    NOT_ENABLED = "endpoint lacks the type"
    UNREACHABLE = "API unreachable"
    SLOW = "answer too slow"
    NO_BODY = "the body does not arrive"
    PARSED = "parsed instead of raw body"
    NO_SIGNATURE = "the signature does not arrive"
    GARBLED = "the signature is garbled"
    NO_SCHEME = "a signature without v1"
    CLOCK = "clock off"
    NO_SECRET = "workers have no secret"
    STALE_SECRET = "workers hold another secret than the .env"
    SPACED_SECRET = "white space in the secret"
    WRONG_SECRET = "wrong secret"
    APP_ERROR = "error in the handler"
    OPEN = "signatures are not checked"
    REFUSED = "refused, the log does not say why"
    IGNORED = "handler ignores the type"
    TAKEN = "taken here, not known to Stripe"
    NO_TRACE = "no trace at the API"
    UNTOLD = "cannot be told from the log"


FROM_ANYBODY = frozenset({Cause.NO_BODY, Cause.NO_SIGNATURE, Cause.GARBLED})
"""What also everybody is refused for who finds the address and knows nothing of Stripe."""


@dataclass(frozen=True)
class Mend:
    """What to do about a cause: a procedure that mends it, or what to do by hand."""

    procedure: str = ""
    do: str = ""

    def __str__(self) -> str:
        return self.procedure or self.do


_PROXY = "have what stands before the API pass Stripe-Signature on as it is; nothing if it was not Stripe who asked"
NEXT = {
    Cause.DISABLED: Mend("enable_webhook_endpoint"),
    Cause.WRONG_URL: Mend(do="correct the endpoint's URL in the Dashboard; then replay_stripe_events"),
    Cause.NOT_ENABLED: Mend("enable_webhook_endpoint"),
    Cause.UNREACHABLE: Mend("restart_api"),
    Cause.SLOW: Mend("troubleshoot_database"),
    Cause.NO_BODY: Mend(do="let nothing in the release read the body before the webhook's route; then restart_api"),
    Cause.PARSED: Mend(do="express.raw() before express.json() in the release; then restart_api"),
    Cause.NO_SIGNATURE: Mend(do=_PROXY),
    Cause.GARBLED: Mend(do=_PROXY),
    Cause.NO_SCHEME: Mend(do="have what stands before the API pass Stripe-Signature on whole: it always has a v1"),
    Cause.CLOCK: Mend(do="check_webhook_signatures says which clock is off: set that one; then restart_api"),
    Cause.NO_SECRET: Mend(do="the endpoint's secret into the .env as STRIPE_WEBHOOK_SECRET; then restart_api"),
    Cause.STALE_SECRET: Mend("restart_api"),
    Cause.SPACED_SECRET: Mend("rotate_webhook_secret"),
    Cause.WRONG_SECRET: Mend("rotate_webhook_secret"),
    Cause.APP_ERROR: Mend(do="mend the release by what the handler said; then restart_api"),
    Cause.OPEN: Mend(do="mend the release at once: anybody may send events; then restart_api"),
    Cause.REFUSED: Mend(do="check_webhook_signatures; if that finds no more, the API refuses without saying why"),
    Cause.IGNORED: Mend(do="nothing, or let the release handle the type"),
    Cause.TAKEN: Mend(do="nothing: an answer was lost, or another endpoint does not take it"),
    Cause.NO_TRACE: Mend("replay_stripe_events"),
    Cause.UNTOLD: Mend("replay_stripe_events"),
}
"""What to do about each."""
