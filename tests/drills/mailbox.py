"""SendGrid on the stand-in, as its administrator: what it answers, what its lists hold, what it has accepted."""

from typing import Any

import urllib3

from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import SENDGRID, url


def admin(what: str, method: str = "POST", /, **data: Any) -> Any:
    """Ask for what only the administrator may."""
    headers = {"Authorization": f"Bearer {Credentials.load().stripe_admin_token}"}
    got = urllib3.request(method, f"{url(SENDGRID)}/_sandbox/{what}", json=data or {}, headers=headers, retries=False)
    assert got.status == 200, got.data
    return got.json()


def fault(status: int, **more: Any) -> None:
    """Let SendGrid answer this instead, once or so many `times`."""
    admin("faults", status=status, **more)


def well() -> None:
    """End all faults, and let the key do what it could at first."""
    admin("faults")
    admin("scopes", scopes=None)


def accepted() -> list[dict[str, Any]]:
    """The messages that were accepted to be sent."""
    found: list[dict[str, Any]] = admin("messages", "GET")
    return found
