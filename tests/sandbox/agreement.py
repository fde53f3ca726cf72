"""The agreement of Stripe and the API: whether what one sends the other takes, as it was when the stand-in started."""

from .errors import SandboxError
from .fault import ENDPOINT, stripe
from .layout import API, DOTENV, url


def problem() -> str | None:
    """Say what keeps the API from taking what Stripe sends it, or from asking Stripe; None if nothing does.

    Whatever a fault, a drill or a command that was cut short has left: a start makes all of it anew.
    """
    # Here, because the import takes half a second that most commands and parts need not wait for.
    from opslib.deployment import env_file
    from opslib.runbook.errors import RunbookError

    try:
        account, held = stripe("/_sandbox/account"), env_file.read(DOTENV)
    except (SandboxError, OSError, RunbookError) as error:
        return str(error)
    endpoint = next((one for one in account["endpoints"] if one["id"] == ENDPOINT), None)
    if endpoint is None:
        return f"the endpoint {ENDPOINT} is gone"
    secrets = {held.get("STRIPE_WEBHOOK_SECRET"), held.get("STRIPE_WEBHOOK_SECRET_PREVIOUS")}
    wrong = {
        f"the endpoint is {endpoint['status']}": endpoint["status"] != "enabled",
        f"the endpoint leads to {endpoint['url']}": endpoint["url"] != f"{url(API)}/api/webhooks/stripe",
        f"the endpoint is sent {', '.join(endpoint['enabled_events'])} only": endpoint["enabled_events"] != ["*"],
        "events are not delivered": not account["delivers"],
        "no secret that signs is in the .env": secrets.isdisjoint(endpoint["secrets"]),
        "the key in the .env is not known": held.get("STRIPE_SECRET_KEY") not in account["keys"],
        f"{account['faults']} requests will be answered with a fault": account["faults"] > 0,
    }
    return "; ".join(said for said, so in wrong.items() if so) or None
