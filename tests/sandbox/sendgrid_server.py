"""SendGrid: the addresses that the mail procedures use, in the shapes of its public specification.

What only a test wants is under `/_sandbox/`, for whoever has the administrator's token.
"""

import asyncio
import hmac
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
    "suppression.delete",
    "asm.groups.suppressions.read",
}
NOW = int(time.time())
SUPPRESSED: dict[str, dict[str, dict[str, Any]]] = {
    "bounces": {"gone@tenant.example": {"reason": "550 5.1.1 The email account does not exist", "status": "5.1.1"}},
    "blocks": {"full@tenant.example": {"reason": "452 4.2.2 Mailbox full", "status": "4.2.2"}},
    "invalid_emails": {"typo@tenant": {"reason": "Mail domain mentioned in email address is unknown"}},
    "spam_reports": {"angry@tenant.example": {"ip": "192.0.2.10"}},
}
UNSUBSCRIBED: dict[str, dict[str, Any]] = {"optout@tenant.example": {}}
GROUPS = ("Reminders", "News")
LEFT = {"calm@tenant.example": ("Reminders",)}
SENDER = "no-reply@propertypulse.example"
"""The one address that is verified to send from."""
MESSAGES: list[dict[str, Any]] = []
"""What was accepted to be sent; nothing is."""
FAULTS: list[dict[str, Any]] = []
"""What is answered instead, so many `times`: a `status` (0: none), `headers`, a body (`text`), after some `seconds`."""
WEBHOOKS: dict[str, dict[str, Any]] = {
    "77d4a5da-7015-11ed-a1eb-0242ac120002": {
        "id": "77d4a5da-7015-11ed-a1eb-0242ac120002",
        "enabled": True,
        "url": f"{url(API)}/api/webhooks/sendgrid",
        **dict.fromkeys(EVENTS, True),
        "friendly_name": "PropertyPulse",
        "oauth_client_id": "",
        "oauth_token_url": "",
        "public_key": PUBLIC_KEY,
    }
}
ADMIN_TOKEN, KEY = Credentials.load().stripe_admin_token, Credentials.load().sendgrid_api_key
KEYS = {KEY: SCOPES}
ROUTE_SCOPES = {
    ("POST", "/v3/mail/send"): "mail.send",
    ("POST", "/v3/user/webhooks/event/test"): "user.webhooks.event.test.create",
    ("GET", "/v3/user/webhooks"): "user.webhooks.event.settings.read",
    ("PATCH", "/v3/user/webhooks"): "user.webhooks.event.settings.update",
    ("GET", "/v3/suppression"): "suppression.read",
    ("DELETE", "/v3/suppression"): "suppression.delete",
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
    if request.path == "/_sandbox/health":
        return await handler(request)
    if request.path.startswith("/_sandbox/"):
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return await handler(request) if hmac.compare_digest(token, ADMIN_TOKEN) else fail(401, "not the administrator")
    if (instead := await _fault(request)) is not None:
        return instead
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


async def _fault(request: web.Request) -> web.Response | None:
    """Answer what a fault says, if there is one for this address."""
    fault = next((f for f in FAULTS if f["times"] > 0 and request.path.startswith(f.get("path", "/v3/"))), None)
    if fault is None:
        return None
    if fault.get("skip", 0) > 0:  # so many are answered first
        fault["skip"] -= 1
        return None
    fault["times"] -= 1
    await asyncio.sleep(fault.get("seconds", 0))
    if not fault["status"] and request.transport is not None:
        request.transport.abort()
    answer = fail(fault["status"] or 503, fault.get("message", "a fault of the stand-in"))
    if "text" in fault:
        answer = web.Response(status=fault["status"], text=fault["text"])
    answer.headers.update(fault.get("headers", {}))
    return answer


@routes.get("/_sandbox/health")
async def health(_: web.Request) -> web.Response:
    """Say that the server is up."""
    return web.json_response({"status": "ok"})


@routes.post("/_sandbox/faults")
async def set_fault(request: web.Request) -> web.Response:
    """Add a fault, or with an empty object end all of them."""
    if data := await request.json():
        FAULTS.append({"times": 1, **data})
    else:
        FAULTS.clear()
    return web.json_response({})


@routes.get("/_sandbox/faults/left")
async def faults_left(_: web.Request) -> web.Response:
    """Say how many times faults are still to happen."""
    return web.json_response(sum(fault["times"] for fault in FAULTS))


@routes.post("/_sandbox/scopes")
async def set_scopes(request: web.Request) -> web.Response:
    """Let the API's key do only this, or with null what it could at first."""
    wanted = (await request.json())["scopes"]
    KEYS[KEY] = SCOPES if wanted is None else set(wanted)
    return web.json_response({})


@routes.post("/_sandbox/suppressions")
async def add_suppressions(request: web.Request) -> web.Response:
    """Put addresses on a list."""
    data = await request.json()
    why = {"reason": data.get("reason", "550 no such user")}
    _list_of(data["list"]).update(dict.fromkeys(data["emails"], why))
    return web.json_response({})


@routes.get("/_sandbox/messages")
async def show_messages(_: web.Request) -> web.Response:
    """Show what was accepted to be sent."""
    return web.json_response(MESSAGES)


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
    if mail["from"].get("email") != SENDER:
        return fail(403, "The from address does not match a verified Sender Identity.", "from")
    if not sandbox:
        MESSAGES.append(mail)
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


def _list_of(kind: str) -> dict[str, dict[str, Any]]:
    return UNSUBSCRIBED if kind == "unsubscribes" else SUPPRESSED[kind]


@routes.get("/v3/suppression/{kind:bounces|blocks|invalid_emails|spam_reports|unsubscribes}")
async def list_suppressed(request: web.Request) -> web.Response:
    """List the addresses that mail is held back from, and why, one page."""
    held, limit = _list_of(request.match_info["kind"]), min(int(request.query.get("limit", 500)), 500)
    begin = int(request.query.get("offset", 0))
    chosen = list(held.items())[begin : begin + limit]
    return web.json_response([{"created": NOW, "email": email, **why} for email, why in chosen])


@routes.get("/v3/suppression/{kind:bounces|blocks|invalid_emails|spam_reports}/{email}")
async def one_suppressed(request: web.Request) -> web.Response:
    """Say why mail is held back from one address: an empty list if it is not."""
    email = request.match_info["email"]
    why = SUPPRESSED[request.match_info["kind"]].get(email)
    return web.json_response([] if why is None else [{"created": NOW, "email": email, **why}])


@routes.delete("/v3/suppression/{kind:bounces|blocks|invalid_emails|spam_reports}/{email}")
async def release(request: web.Request) -> web.Response:
    """Take one address off a list."""
    if SUPPRESSED[request.match_info["kind"]].pop(request.match_info["email"], None) is None:
        return fail(404, "no such address")
    return web.Response(status=204)


@routes.get("/v3/asm/suppressions/global/{email}")
async def unsubscribed(request: web.Request) -> web.Response:
    """Say whether one address has unsubscribed from everything."""
    email = request.match_info["email"]
    return web.json_response({"recipient_email": email} if email in UNSUBSCRIBED else {})


@routes.get("/v3/asm/suppressions/{email}")
async def left_groups(request: web.Request) -> web.Response:
    """Say of each group of messages whether one address has left it."""
    gone = LEFT.get(request.match_info["email"], ())
    groups = [{"id": n, "name": name, "suppressed": name in gone} for n, name in enumerate(GROUPS, 1)]
    return web.json_response({"suppressions": groups})


@routes.get("/v3/asm/suppressions")
async def all_left_groups(request: web.Request) -> web.Response:
    """List who has left which group, without pages."""
    rows = [{"email": email, "group_name": name, "created_at": NOW} for email, names in LEFT.items() for name in names]
    return web.json_response(rows)


if __name__ == "__main__":
    application = web.Application(middlewares=[authorized])
    application.add_routes(routes)
    web.run_app(application, host=HOST, port=SENDGRID, access_log=None, print=None)
