"""Causes: what stands between an event of Stripe's and its effect, and the procedure or step that mends each."""

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


FROM_ANYBODY = frozenset({Cause.NO_BODY, Cause.NO_SIGNATURE, Cause.GARBLED})
"""What also everybody is refused for who finds the address and knows nothing of Stripe."""
NEXT = {
    Cause.DISABLED: "this procedure, stage enable; then stage replay",
    Cause.WRONG_URL: "correct the endpoint's URL in the Dashboard; then this procedure, stage replay",
    Cause.NOT_ENABLED: "this procedure, stage enable; then stage replay",
    Cause.UNREACHABLE: "restart_api; then this procedure, stage replay",
    Cause.SLOW: "look for locks in the database, then restart_api; Stripe gives up on slow answers",
    Cause.NO_BODY: "let nothing in the release read the body before the webhook's route, then restart_api",
    Cause.PARSED: "express.raw() before express.json() in the release, then restart_api",
    Cause.NO_SIGNATURE: "have the proxy pass Stripe-Signature on; nothing if somebody else than Stripe asked",
    Cause.GARBLED: "have the proxy pass Stripe-Signature on as it is; nothing if somebody else than Stripe asked",
    Cause.NO_SCHEME: "have the proxy pass Stripe-Signature on whole: Stripe's own always has a v1; then stage replay",
    Cause.CLOCK: "set the machine's clock (chronyc makestep), then restart_api",
    Cause.NO_SECRET: "STRIPE_WEBHOOK_SECRET into the .env, as the endpoint's in the Dashboard; then restart_api",
    Cause.STALE_SECRET: "restart_api",
    Cause.SPACED_SECRET: "rotate_stripe_keys, stage webhook, with the endpoint's secret and nothing around it",
    Cause.WRONG_SECRET: "rotate_stripe_keys, stage webhook, with the endpoint's secret from the Dashboard",
    Cause.APP_ERROR: "mend the release by the stack below, then restart_api",
    Cause.OPEN: "mend the release at once: anybody may send events; then restart_api",
    Cause.REFUSED: "check_webhook_signatures",
    Cause.IGNORED: "nothing, or let the release handle the type",
    Cause.TAKEN: "nothing: an answer was lost, or another endpoint does not take it",
    Cause.NO_TRACE: "this procedure, stage replay: it was sent while the API was away, or not sent at all",
}
"""What to do about each."""
