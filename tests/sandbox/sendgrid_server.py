"""SendGrid: the addresses that the mail procedures use, in the shapes of its public specification."""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from aiohttp import web

from .credentials import Credentials
from .layout import API, HOST, SENDGRID, url

EVENTS = (
    *("processed", "deferred", "delivered", "bounce", "dropped", "open", "click", "spam_report"),
    *("unsubscribe", "group_unsubscribe", "group_resubscribe"),
)
# What a signed webhook's events are verified with: a key of the P-256 curve, DER in base64.
PUBLIC_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcw"
    "HBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA=="
)
SCOPES = {
    "mail.send",
    "user.webhooks.event.settings.read",
    "user.webhooks.event.settings.update",
    "user.webhooks.event.test.create",
    "suppression.read",
    "asm.groups.suppressions.read",
}
NOW = int(time.time())
SUPPRESSED: dict[str, dict[str, dict[str, Any]]] = {
    "bounces": {"gone@tenant.example": {"reason": "550 5.1.1 The email account does not exist", "status": "5.1.1"}},
    "blocks": {"full@tenant.example": {"reason": "452 4.2.2 Mailbox full", "status": "4.2.2"}},
    "invalid_emails": {"typo@tenant": {"reason": "Mail domain mentioned in email address is unknown"}},
    "spam_reports": {"angry@tenant.example": {"ip": "192.0.2.10"}},
}
UNSUBSCRIBED = {"optout@tenant.example"}
WEBHOOKS: dict[str, dict[str, Any]] = {
    "77d4a5da-7015-11ed-a1eb-0242ac120002": {
        "id": "77d4a5da-7015-11ed-a1eb-0242ac120002",
        "enabled": True,
        "url": f"{url(API)}/api/webhooks/sendgrid",
        **dict.fromkeys(EVENTS, True),
        "friendly_name": "PropertyPulse",
        "oauth_client_id": "",
        "oauth_token_url": "",
        "public_key": "",
    }
}
KEYS = {Credentials.load().sendgrid_api_key: SCOPES}
ROUTE_SCOPES = {
    ("POST", "/v3/mail/send"): "mail.send",
    ("POST", "/v3/user/webhooks/event/test"): "user.webhooks.event.test.create",
    ("GET", "/v3/user/webhooks"): "user.webhooks.event.settings.read",
    ("PATCH", "/v3/user/webhooks"): "user.webhooks.event.settings.update",
    ("GET", "/v3/suppression"): "suppression.read",
    ("GET", "/v3/asm"): "asm.groups.suppressions.read",
}

routes = web.RouteTableDef()


def fail(status: int, message: str, field: str | None = None) -> web.Response:
    """Answer with an error as SendGrid words it."""
    return web.json_response({"errors": [{"message": message, "field": field}]}, status=status)


@web.middleware
async def authorized(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let through what has a key with the scope that the address asks for."""
    if request.path.startswith("/_sandbox/"):
        return await handler(request)
    scopes = KEYS.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if scopes is None:
        return fail(401, "authorization required")
    prefixes = (
        scope
        for (method, path), scope in ROUTE_SCOPES.items()
        if method == request.method and request.path.startswith(path)
    )
    if (needed := next(prefixes, None)) and needed not in scopes:
        return fail(403, "access forbidden")
    answer = await handler(request)
    answer.headers.update(
        {
            "X-RateLimit-Limit": "600",
            "X-RateLimit-Remaining": "599",
            "X-RateLimit-Reset": str(int(time.time()) // 60 * 60 + 60),
        }
    )
    return answer


@routes.get("/_sandbox/health")
async def health(_: web.Request) -> web.Response:
    """Say that the server is up."""
    return web.json_response({"status": "ok"})


@routes.get("/v3/scopes")
async def list_scopes(request: web.Request) -> web.Response:
    """List what the key may do."""
    return web.json_response({"scopes": sorted(KEYS[request.headers["Authorization"].removeprefix("Bearer ")])})


@routes.post("/v3/mail/send")
async def send(request: web.Request) -> web.Response:
    """Accept a message: 202, or in sandbox mode 200 and nothing is sent."""
    mail = await request.json()
    for name in ("personalizations", "from", "subject", "content"):
        if not mail.get(name):
            return fail(400, f"The {name} field is required.", name)
    sandbox = mail.get("mail_settings", {}).get("sandbox_mode", {}).get("enable", False)
    if not isinstance(sandbox, bool):
        return fail(400, "The sandbox_mode enable parameter should be a boolean.", "mail_settings.sandbox_mode.enable")
    return web.Response(status=200 if sandbox else 202, headers={"X-Message-Id": uuid4().hex[:22]})


@routes.get("/v3/user/webhooks/event/settings/all")
async def list_webhooks(_: web.Request) -> web.Response:
    """List the event webhooks."""
    return web.json_response({"max_allowed": 2, "webhooks": list(WEBHOOKS.values())})


@routes.get("/v3/user/webhooks/event/settings/signed/{id}")
@routes.patch("/v3/user/webhooks/event/settings/signed/{id}")
async def signed_webhook(request: web.Request) -> web.Response:
    """Show an event webhook's public key, or turn its signature on or off."""
    if (webhook := WEBHOOKS.get(request.match_info["id"])) is None:
        return fail(404, "webhook not found")
    if request.method == "PATCH":
        webhook["public_key"] = PUBLIC_KEY if (await request.json())["enabled"] else ""
    return web.json_response({"id": webhook["id"], "public_key": webhook["public_key"]})


@routes.get("/v3/user/webhooks/event/settings/{id}")
@routes.patch("/v3/user/webhooks/event/settings/{id}")
async def one_webhook(request: web.Request) -> web.Response:
    """Show or change an event webhook."""
    if (webhook := WEBHOOKS.get(request.match_info["id"])) is None:
        return fail(404, "webhook not found")
    if request.method == "PATCH":
        changes = await request.json()
        webhook.update(
            {name: changes[name] for name in ("enabled", "url", "friendly_name", *EVENTS) if name in changes}
        )
    return web.json_response(webhook)


@routes.post("/v3/user/webhooks/event/test")
async def test_webhook(request: web.Request) -> web.Response:
    """Accept the order to send a made-up event."""
    if not (await request.json()).get("url"):
        return fail(400, "url is required", "url")
    return web.Response(status=204)


@routes.get("/v3/suppression/{kind:bounces|blocks|invalid_emails|spam_reports}")
async def list_suppressed(request: web.Request) -> web.Response:
    """List the addresses that mail is held back from, and why."""
    held = SUPPRESSED[request.match_info["kind"]]
    return web.json_response([{"created": NOW, "email": email, **why} for email, why in held.items()])


@routes.get("/v3/suppression/{kind:bounces|blocks|invalid_emails|spam_reports}/{email}")
async def one_suppressed(request: web.Request) -> web.Response:
    """Say why mail is held back from one address: an empty list if it is not."""
    email = request.match_info["email"]
    why = SUPPRESSED[request.match_info["kind"]].get(email)
    return web.json_response([] if why is None else [{"created": NOW, "email": email, **why}])


@routes.get("/v3/asm/suppressions/global/{email}")
async def unsubscribed(request: web.Request) -> web.Response:
    """Say whether one address has unsubscribed from everything."""
    email = request.match_info["email"]
    return web.json_response({"recipient_email": email} if email in UNSUBSCRIBED else {})


if __name__ == "__main__":
    application = web.Application(middlewares=[authorized])
    application.add_routes(routes)
    web.run_app(application, host=HOST, port=SENDGRID, access_log=None, print=None)
