"""Stripe: localstripe, and in front of it what it lacks.

Keys that can be revoked, webhook endpoints, signed deliveries that are tried again, events that say whether they were
delivered, and the shapes of the Stripe API where localstripe's differ. What only the Dashboard can do is under
`/_sandbox/`, for whoever has the administrator's token.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from . import stripe_payment
from .credentials import Credentials
from .layout import API, HOST, LOCALSTRIPE, STRIPE, url

ACCOUNT = "acct_1PropertyPulseTest"
API_VERSION = "2025-09-30.clover"
# Stripe tries for three days; here each step takes as many seconds.
RETRY_SECONDS = (1, 2, 4, 8, 16)
EVENTS_MADE_HERE = {"cancel": "payment_intent.canceled", "refunds": "charge.refunded"}

Json = dict[str, Any]


@dataclass
class Endpoint:
    """A webhook endpoint, the secret that signs what it is sent, and those that sign too for a while after a roll."""

    id: str
    url: str
    secret: str
    enabled_events: list[str] = field(default_factory=lambda: ["*"])
    status: str = "enabled"
    description: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    rolled: dict[str, float] = field(default_factory=dict)
    """Until when each of the secrets before signs too, in seconds since 1970."""

    @property
    def secrets(self) -> list[str]:
        """What signs now: the secret, always, and what was rolled not long ago."""
        return [self.secret, *(secret for secret, until in self.rolled.items() if until > time.time())]

    def roll(self, new: str, overlap: float) -> None:
        """Sign with a new secret, and with the old one for so many seconds; one that comes back is old no more."""
        self.rolled[self.secret] = time.time() + overlap
        self.rolled.pop(new, None)
        self.secret = new

    def export(self, *, with_secret: bool = False) -> Json:
        """Return the endpoint as the API shows it: its secret only at creation."""
        shown = {name: value for name, value in vars(self).items() if name not in ("secret", "rolled")}
        shown |= {"object": "webhook_endpoint", "api_version": API_VERSION, "livemode": False, "metadata": {}}
        return shown | ({"secret": self.secret} if with_secret else {})

    def wants(self, event: Json) -> bool:
        """Tell whether the endpoint is to be sent `event`."""
        return self.status == "enabled" and bool({"*", event["type"]} & set(self.enabled_events))

    def signature(self, payload: bytes) -> str:
        """Sign `payload` now, with each secret that is valid."""
        now = int(time.time())
        signed = f"{now}.".encode() + payload
        macs = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in self.secrets)
        return ",".join([f"t={now}", *(f"v1={mac}" for mac in macs)])


@dataclass
class Fault:
    """What `/v1/` answers instead, so many times: late, with another status, or (status 0) not at all."""

    path: str = "/v1/"
    status: int = 200
    seconds: float = 0
    times: int = 1
    retry_after: int | None = None
    """What a 429 asks for, in seconds; None leaves the header out."""
    garbage: str | None = None
    """A body that is not Stripe's."""


class Account:
    """The Stripe account: its keys, endpoints, events, and what is still to be delivered."""

    def __init__(self, credentials: Credentials, session: ClientSession) -> None:
        self.session = session
        self.admin_token = credentials.stripe_admin_token
        # To what each key is restricted, by the second part of the path; None lets it do everything.
        self.keys: dict[str, set[str] | None] = {
            credentials.stripe_secret_key: None,
            credentials.stripe_new_secret_key: None,
        }
        self.last_used: dict[str, float] = {}
        self.faults: list[Fault] = []
        # Any key will do for localstripe: ours need not be told to it.
        self.backend = {"Authorization": "Bearer sk_test_localstripe"}
        first = Endpoint("we_1PropertyPulse", f"{url(API)}/api/webhooks/stripe", credentials.stripe_webhook_secret)
        self.endpoints = {first.id: first}
        self.events: dict[str, Json] = {}  # oldest first
        self.undelivered: dict[str, set[str]] = {}  # event id → endpoint ids
        self.intents: dict[str, Json] = {}  # those that were not made by localstripe
        self.answers: dict[str, tuple[str, int, Json]] = {}  # idempotency key → request, answer
        self.deliveries: set[asyncio.Task[None]] = set()
        self.delivers = True

    async def adopt_events(self, *, deliver: bool = True) -> None:
        """Take over the events that localstripe has made since the last time."""
        newest = max((event["created"] for event in self.events.values()), default=0)
        address = f"{url(LOCALSTRIPE)}/v1/events?limit=10000&created[gte]={newest}"
        async with self.session.get(address, headers=self.backend) as answer:
            listed = (await answer.json())["data"]
        for event in sorted(listed, key=lambda event: event["created"]):
            if event["id"] not in self.events:
                self.add_event(event, deliver=deliver)

    def add_event(self, event: Json, *, deliver: bool = True) -> None:
        """Note an event, and send it to every endpoint that wants it."""
        event["data"]["object"] = shaped(event["data"]["object"])
        event |= {"api_version": API_VERSION, "livemode": False, "request": {"id": None, "idempotency_key": None}}
        self.events[event["id"]] = event
        wanted = [endpoint for endpoint in self.endpoints.values() if endpoint.wants(event)] if deliver else []
        self.undelivered[event["id"]] = {endpoint.id for endpoint in wanted}
        for endpoint in wanted if self.delivers else ():
            task = asyncio.create_task(self.deliver(event, endpoint))
            self.deliveries.add(task)
            task.add_done_callback(self.deliveries.discard)

    async def deliver(self, event: Json, endpoint: Endpoint) -> None:
        """Send `event` until the endpoint takes it or the retries are used up."""
        for pause in (*RETRY_SECONDS, None):
            if await self.send(event, endpoint):
                self.undelivered[event["id"]].discard(endpoint.id)
                return
            if pause is not None:
                await asyncio.sleep(pause)

    async def send(self, event: Json, endpoint: Endpoint) -> bool:
        """Send `event` once; True if the endpoint answered with success."""
        payload = json.dumps(self.export(event), indent=2).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": endpoint.signature(payload)}
        with suppress(ClientError, TimeoutError):
            async with self.session.post(endpoint.url, data=payload, headers=headers) as answer:
                return 200 <= answer.status < 300
        return False

    def export(self, event: Json) -> Json:
        """Return the event as the API shows it now."""
        return event | {"pending_webhooks": len(self.undelivered[event["id"]])}


def shaped(thing: Any, expand: Iterable[str] = ()) -> Any:
    """Return what localstripe answered in the shape that Stripe gives it."""
    if isinstance(thing, list):
        return [shaped(item, expand) for item in thing]
    if not isinstance(thing, dict):
        return thing
    inner = tuple(path.removeprefix("data.") for path in expand)
    thing = {name: shaped(value, inner) for name, value in thing.items()}
    if thing.get("object") == "payment_intent":
        charge = thing.get("latest_charge")
        if isinstance(charge, dict) and "latest_charge" not in inner:
            thing["latest_charge"] = charge["id"]
        paid = thing["status"] == "succeeded"
        thing |= {"amount_received": thing["amount"] if paid else 0, "amount_capturable": 0, "livemode": False}
    elif thing.get("object") == "charge":
        thing |= {"disputed": False, "amount_captured": thing["amount"] if thing["captured"] and thing["paid"] else 0}
    return thing


def fail(status: int, message: str, **details: str) -> web.Response:
    """Answer with an error as Stripe words it."""
    return web.json_response({"error": {"message": message, "type": "invalid_request_error", **details}}, status=status)


def page(items: list[Json], query: Mapping[str, str], path: str) -> Json:
    """Give one page of `items`, which are newest first."""
    limit = min(int(query.get("limit", 10)), 100)
    place = {item["id"]: index for index, item in enumerate(items)}
    if before := query.get("ending_before"):
        end = place.get(before, 0)
        chosen, more = items[max(0, end - limit) : end], end > limit
    else:
        begin = place.get(query.get("starting_after", ""), -1) + 1
        chosen, more = items[begin : begin + limit], len(items) > begin + limit
    return {"object": "list", "url": path, "has_more": more, "data": chosen}


def _created_within(thing: Json, query: Mapping[str, str]) -> bool:
    """Tell whether it was made in the time that a list is asked for."""
    bounds = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}
    asked = [(holds, query[f"created[{name}]"]) for name, holds in bounds.items() if f"created[{name}]" in query]
    return all(holds(thing["created"], int(limit)) for holds, limit in asked)


account_key = web.AppKey("account", Account)
routes = web.RouteTableDef()


@web.middleware
async def authenticated(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let through what has a valid key, or the administrator's token: that alone opens the Dashboard's addresses."""
    account = request.app[account_key]
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        value = b64decode(value).decode().partition(":")[0]
    if request.path == "/_sandbox/health":
        return await handler(request)
    administrator = hmac.compare_digest(value.encode(), account.admin_token.encode())
    if not administrator and (instead := await _refusal(account, request, value)) is not None:
        return instead
    answer = await handler(request)
    answer.headers["Request-Id"] = f"req_{secrets.token_hex(7)}"
    return answer


async def _refusal(account: Account, request: web.Request, value: str) -> web.Response | None:
    """Answer whoever has no key that may do this, or whom a fault meets: none meets the administrator."""
    if request.path.startswith("/_sandbox/"):
        return fail(401, "The administrator's token is required")
    if not value:
        return fail(401, "You did not provide an API key.")
    if value not in account.keys:
        return fail(401, f"Invalid API Key provided: {value[:8]}{'*' * 16}{value[-4:]}")
    account.last_used[value] = time.time()
    if (instead := await _fault(account, request)) is not None:
        return instead
    allowed, wanted = account.keys[value], request.path.split("/")[2]
    if allowed is not None and wanted not in allowed:
        return fail(403, f"The provided key does not have the required permissions for {wanted}.")
    return None


async def _fault(account: Account, request: web.Request) -> web.Response | None:
    """Answer what a fault says, if there is one for this address."""
    fault = next((f for f in account.faults if f.times > 0 and request.path.startswith(f.path)), None)
    if fault is None:
        return None
    fault.times -= 1
    await asyncio.sleep(fault.seconds)
    if fault.status == 0 and request.transport is not None:
        request.transport.abort()
    if fault.garbage is not None:
        return web.Response(text=fault.garbage, status=fault.status, content_type="application/json")
    if fault.status == 200:
        return None
    answer = fail(fault.status or 503, f"A fault of the stand-in: {fault.status}")
    answer.headers.update({} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)})
    return answer


@routes.get("/_sandbox/health")
async def health(_: web.Request) -> web.Response:
    """Say that the server is up."""
    return web.json_response({"status": "ok"})


@routes.post("/_sandbox/keys")
async def create_key(request: web.Request) -> web.Response:
    """Make a secret key, or one restricted to some `permissions`, as the Dashboard does; `secret` names one to make."""
    data = await request.json() if request.can_read_body else {}
    allowed = data.get("permissions")
    key = data.get("secret") or f"{'sk' if allowed is None else 'rk'}_test_{secrets.token_hex(32)}"
    request.app[account_key].keys[key] = None if allowed is None else set(allowed)
    return web.json_response({"secret": key})


@routes.post("/_sandbox/keys/last_used")
async def show_last_used(request: web.Request) -> web.Response:
    """Say when a key was last used, as the Dashboard does, in seconds since 1970."""
    account, data = request.app[account_key], await request.json()
    return web.json_response({"last_used": account.last_used.get(data["secret"])})


@routes.post("/_sandbox/faults")
async def set_fault(request: web.Request) -> web.Response:
    """Add a fault, or with an empty object end all of them."""
    account, data = request.app[account_key], await request.json()
    account.faults = [*account.faults, Fault(**data)] if data else []
    return web.json_response({})


@routes.post("/_sandbox/keys/expire")
async def expire_key(request: web.Request) -> web.Response:
    """Revoke a secret key, as the Dashboard does."""
    request.app[account_key].keys.pop((await request.json())["secret"], None)
    return web.json_response({})


@routes.post("/_sandbox/account")
async def show_what_is_set(request: web.Request) -> web.Response:
    """Show what the Dashboard reveals of the keys and of each endpoint's secrets, and what the stand-in was told."""
    account = request.app[account_key]
    endpoints = [endpoint.export() | {"secrets": endpoint.secrets} for endpoint in account.endpoints.values()]
    faults = sum(fault.times for fault in account.faults)
    told = {"delivers": account.delivers, "faults": faults}
    return web.json_response({"keys": list(account.keys), "endpoints": endpoints, **told})


@routes.post("/_sandbox/webhook_endpoints")
async def add_endpoint(request: web.Request) -> web.Response:
    """Add an endpoint with an id and a secret that the stand-in has chosen."""
    endpoint = Endpoint(**await request.json())
    request.app[account_key].endpoints[endpoint.id] = endpoint
    return web.json_response(endpoint.export())


@routes.post("/_sandbox/webhook_endpoints/forget")
async def forget_endpoint(request: web.Request) -> web.Response:
    """Remove an endpoint, and what was still to be delivered to it."""
    account, name = request.app[account_key], (await request.json())["id"]
    account.endpoints.pop(name, None)
    for missing in account.undelivered.values():
        missing.discard(name)
    return web.json_response({})


@routes.post("/_sandbox/webhook_endpoints/{id}/roll")
async def roll_secret(request: web.Request) -> web.Response:
    """Give an endpoint a new secret; the old one signs too for `overlap_seconds`."""
    endpoint, data = request.app[account_key].endpoints[request.match_info["id"]], await request.json()
    endpoint.roll(data.get("secret") or f"whsec_{secrets.token_hex(16)}", data.get("overlap_seconds", 0))
    return web.json_response(endpoint.export(with_secret=True))


@routes.post("/_sandbox/events/{id}/resend")
async def resend(request: web.Request) -> web.Response:
    """Send an event to an endpoint once more, as the Dashboard does."""
    account, data = request.app[account_key], await request.json()
    event, endpoint = account.events[request.match_info["id"]], account.endpoints[data["webhook_endpoint"]]
    taken = await account.send(event, endpoint)
    if taken:
        account.undelivered[event["id"]].discard(endpoint.id)
    return web.json_response({"delivered": taken})


@routes.post("/_sandbox/deliveries")
async def set_deliveries(request: web.Request) -> web.Response:
    """Let deliveries happen, or have all new events go undelivered for good."""
    request.app[account_key].delivers = (await request.json())["enabled"]
    return web.json_response({})


@routes.post("/_sandbox/events")
async def make_events(request: web.Request) -> web.Response:
    """Make events as they are given, with nothing behind them at Stripe; `attempts` says how often each is sent."""
    account, data = request.app[account_key], await request.json()
    wanting = [endpoint for endpoint in account.endpoints.values() if endpoint.status == "enabled"]
    for event in data["events"]:
        account.add_event(event, deliver=False)
        account.undelivered[event["id"]] = {endpoint.id for endpoint in wanting if endpoint.wants(event)}
        for endpoint in wanting * data.get("attempts", 0):
            if endpoint.wants(event) and await account.send(event, endpoint):
                account.undelivered[event["id"]].discard(endpoint.id)
    return web.json_response({})


@routes.post("/_sandbox/events/forget")
async def forget_events(request: web.Request) -> web.Response:
    """Remove the events whose ids begin so."""
    account, prefix = request.app[account_key], (await request.json())["prefix"]
    for name in [name for name in account.events if name.startswith(prefix)]:
        del account.events[name], account.undelivered[name]
    return web.json_response({})


@routes.post("/_sandbox/deliveries/retry")
async def retry_deliveries(request: web.Request) -> web.Response:
    """Send every undelivered event once more, or only to one `endpoint`."""
    account, data = request.app[account_key], await request.json() if request.can_read_body else {}
    wanted = {data["endpoint"]} if "endpoint" in data else set(account.endpoints)
    for name, missing in list(account.undelivered.items()):  # new events are made meanwhile
        for endpoint in [account.endpoints[id] for id in missing & wanted if id in account.endpoints]:
            if await account.send(account.events[name], endpoint):
                missing.discard(endpoint.id)
    return web.json_response({"undelivered": sum(map(bool, account.undelivered.values()))})


@routes.post("/_sandbox/payment_intents")
async def make_intents(request: web.Request) -> web.Response:
    """Make intents by the hundred, with or without events; give the ids of both, in the same order."""
    account, made, events = request.app[account_key], [], []
    for one in [stripe_payment.Payment(**data) for data in (await request.json())["payments"]]:
        made.append(stripe_payment.intent(one))
        account.intents[made[-1]["id"]] = made[-1]
        if one.event != "none":
            event = stripe_payment.event(made[-1]) | {"api_version": API_VERSION}
            events.append(event["id"])
            account.events[event["id"]] = event
            account.undelivered[event["id"]] = set(account.endpoints) if one.event == "undelivered" else set()
    return web.json_response({"ids": [intent["id"] for intent in made], "events": events})


@routes.post("/_sandbox/payment_intents/forget")
async def forget_intents(request: web.Request) -> web.Response:
    """Remove intents that were made so, all or those with these `ids`, and their events."""
    account, data = request.app[account_key], await request.json() if request.can_read_body else {}
    gone = set(data.get("ids", account.intents)) & account.intents.keys()
    for name in [n for n, event in account.events.items() if event["data"]["object"].get("id") in gone]:
        del account.events[name], account.undelivered[name]
    for name in gone:
        del account.intents[name]
    return web.json_response({})


@routes.post("/_sandbox/payment_intents/{id}")
async def alter_intent(request: web.Request) -> web.Response:
    """Alter an intent that was made so, and its charge, as a refund or a dispute does."""
    intent, data = request.app[account_key].intents[request.match_info["id"]], await request.json()
    intent["latest_charge"] |= data.pop("charge", {})
    intent |= data
    return web.json_response(intent)


@routes.get("/v1/payment_intents")
async def list_intents(request: web.Request) -> web.Response:
    """List intents, newest first, by when they were made."""
    account, query = request.app[account_key], request.query
    async with account.session.get(f"{url(LOCALSTRIPE)}/_config/payment_intents") as answered:
        intents = [*account.intents.values(), *(await answered.json())]
    intents = [intent for intent in intents if _created_within(intent, query)]
    newest = sorted(intents, key=lambda intent: (intent["created"], intent["id"]), reverse=True)
    answer, expand = page(newest, query, request.path), [value for name, value in query.items() if "expand" in name]
    answer["data"] = [_expanded(await _whole(account, intent), expand) for intent in answer["data"]]
    return web.json_response(answer)


@routes.get("/v1/payment_intents/{id}")
async def show_intent(request: web.Request) -> web.StreamResponse:
    """Show one intent."""
    if (intent := request.app[account_key].intents.get(request.match_info["id"])) is None:
        return await pass_on(request)
    return web.json_response(_expanded(intent, [value for name, value in request.query.items() if "expand" in name]))


async def _whole(account: Account, listed: Json) -> Json:
    """Give all of an intent, of which localstripe lists only what orders it."""
    if listed["id"] in account.intents:
        return listed
    address = f"{url(LOCALSTRIPE)}/v1/payment_intents/{listed['id']}"
    async with account.session.get(address, headers=account.backend) as answered:
        intent: Json = await answered.json()
        return intent


def _expanded(intent: Json, expand: list[str]) -> Json:
    if "amount_received" not in intent:
        result: Json = shaped(intent, expand)
        return result
    asked = {path.removeprefix("data.") for path in expand}
    return intent if "latest_charge" in asked else stripe_payment.collapsed(intent)


@routes.get("/v1/account")
async def show_account(_: web.Request) -> web.Response:
    """Show the account that the key belongs to."""
    shown = {"id": ACCOUNT, "object": "account", "country": "US", "default_currency": "usd", "type": "standard"}
    return web.json_response(shown | {"charges_enabled": True, "payouts_enabled": True, "livemode": False})


@routes.get("/v1/balance")
async def show_balance(_: web.Request) -> web.Response:
    """Show the balance, in the shape that localstripe gets wrong."""
    funds = [{"amount": 1_250_000, "currency": "usd", "source_types": {"card": 1_250_000}}]
    return web.json_response({"object": "balance", "livemode": False, "available": funds, "pending": []})


@routes.get("/v1/webhook_endpoints")
async def list_endpoints(request: web.Request) -> web.Response:
    """List the webhook endpoints."""
    endpoints = [endpoint.export() for endpoint in reversed(request.app[account_key].endpoints.values())]
    return web.json_response(page(endpoints, request.query, request.path))


@routes.post("/v1/webhook_endpoints")
async def create_endpoint(request: web.Request) -> web.Response:
    """Create a webhook endpoint; only this answer shows its secret."""
    data = parse_qsl(await request.text())
    address, events = dict(data).get("url"), [value for name, value in data if name.startswith("enabled_events")]
    if not address or not events:
        return fail(400, f"Missing required param: {'enabled_events' if address else 'url'}.", code="parameter_missing")
    endpoint = Endpoint(f"we_{secrets.token_hex(12)}", address, f"whsec_{secrets.token_hex(16)}", events)
    endpoint.description = dict(data).get("description")
    request.app[account_key].endpoints[endpoint.id] = endpoint
    return web.json_response(endpoint.export(with_secret=True))


@routes.route("*", "/v1/webhook_endpoints/{id}")
async def one_endpoint(request: web.Request) -> web.Response:
    """Show, update or delete a webhook endpoint."""
    endpoints, name = request.app[account_key].endpoints, request.match_info["id"]
    if (endpoint := endpoints.get(name)) is None:
        return fail(404, f"No such webhook endpoint: '{name}'", code="resource_missing", param="webhook_endpoint")
    if request.method == "DELETE":
        del endpoints[name]
        return web.json_response({"id": name, "object": "webhook_endpoint", "deleted": True})
    if request.method == "POST":
        data = parse_qsl(await request.text())
        endpoint.url = dict(data).get("url", endpoint.url)
        endpoint.enabled_events = [v for n, v in data if n.startswith("enabled_events")] or endpoint.enabled_events
        if "disabled" in dict(data):
            endpoint.status = "disabled" if dict(data)["disabled"] == "true" else "enabled"
    return web.json_response(endpoint.export())


@routes.get("/v1/events")
async def list_events(request: web.Request) -> web.Response:
    """List events, newest first, by type, time, and whether each endpoint has taken them."""
    account, query = request.app[account_key], dict(request.query)
    types = {value for name, value in request.query.items() if name == "type" or name.startswith("types")}
    events = sorted(account.events.values(), key=lambda event: int(event["created"]))[::-1]
    if after := query.pop("starting_after", ""):  # looked for among all: it may have been delivered since
        events = events[next((n for n, event in enumerate(events) if event["id"] == after), -1) + 1 :]
    delivered = query.get("delivery_success")

    def wanted(event: Json) -> bool:
        ok = not types or event["type"] in types
        ok = ok and (not delivered or (not account.undelivered[event["id"]]) == (delivered == "true"))
        return ok and _created_within(event, request.query)

    # No more than the page shows, and one to know whether there is another.
    most = None if query.get("ending_before") else 1 + min(int(query.get("limit", 10)), 100)
    found = [account.export(event) for event in islice(filter(wanted, events), most)]
    return web.json_response(page(found, query, request.path))


@routes.get("/v1/events/{id}")
async def show_event(request: web.Request) -> web.Response:
    """Show one event."""
    account, name = request.app[account_key], request.match_info["id"]
    if name not in account.events:
        return fail(404, f"No such event: '{name}'", code="resource_missing", param="id")
    return web.json_response(account.export(account.events[name]))


@routes.post("/v1/events/{id}/retry")
async def retry_event(request: web.Request) -> web.Response:
    """Send an event to an endpoint once more, as `stripe events resend` asks for."""
    account, name = request.app[account_key], request.match_info["id"]
    endpoint = account.endpoints.get(dict(parse_qsl(await request.text())).get("webhook_endpoint", ""))
    if name not in account.events or endpoint is None:
        return fail(404, f"No such event or webhook endpoint: '{name}'", code="resource_missing", param="id")
    if await account.send(account.events[name], endpoint):
        account.undelivered[name].discard(endpoint.id)
    else:
        account.undelivered[name].add(endpoint.id)
    return web.json_response(account.export(account.events[name]))


@routes.route("*", "/v1/{path:.*}")
async def pass_on(request: web.Request) -> web.Response:
    """Pass a request on to localstripe, once for each idempotency key, and take over the events that it causes."""
    account, body = request.app[account_key], await request.text()
    key, asked = request.headers.get("Idempotency-Key"), f"{request.method} {request.path} {body}"
    if key and key in account.answers:
        before, status, answer = account.answers[key]
        if before != asked:
            return fail(
                400, "Keys for idempotent requests can only be used with the same parameters.", type="idempotency_error"
            )
        return web.json_response(answer, status=status, headers={"Idempotent-Replayed": "true"})
    status, answer = await _ask_localstripe(account, request, body)
    if request.method != "GET":
        if key and status < 500:
            account.answers[key] = asked, status, answer
        if status == 200:
            await _note_missing_event(account, request.path, answer)
        await account.adopt_events()
    return web.json_response(answer, status=status)


async def _ask_localstripe(account: Account, request: web.Request, body: str) -> tuple[int, Json]:
    headers = account.backend | {"Content-Type": request.headers.get("Content-Type", "application/json")}
    target = f"{url(LOCALSTRIPE)}{request.path_qs}"
    async with account.session.request(request.method, target, data=body or None, headers=headers) as answered:
        text = await answered.text()
    if not text.startswith("{"):
        return 404, {
            "error": {
                "message": f"Unrecognized request URL ({request.method}: {request.path}).",
                "type": "invalid_request_error",
            }
        }
    parameters = [*request.query.items(), *parse_qsl(body)]
    expand = [value for name, value in parameters if name.startswith("expand")]
    answer: Json = shaped(json.loads(text), expand)
    if answered.status == 404:
        name = request.path.rsplit("/", 1)[-1]
        answer["error"] |= {"message": f"No such object: '{name}'", "code": "resource_missing", "param": "id"}
    return answered.status, answer


async def _note_missing_event(account: Account, path: str, answer: Json) -> None:
    """Make the events of cancellations and refunds, which localstripe does not."""
    kind = EVENTS_MADE_HERE.get(path.rsplit("/", 1)[-1])
    if kind is None:
        return
    subject = answer
    if kind == "charge.refunded":
        target = f"{url(LOCALSTRIPE)}/v1/charges/{answer['charge']}"
        async with account.session.get(target, headers=account.backend) as answered:
            subject = await answered.json()
    event = {"id": f"evt_{secrets.token_hex(12)}", "object": "event", "type": kind, "created": int(time.time())}
    account.add_event({**event, "data": {"object": subject}})


async def _account(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as session:
        app[account_key] = account = Account(Credentials.load(), session)
        await account.adopt_events(deliver=False)
        # Some events come later than the request that causes them: a direct debit settles on its own.
        watcher = asyncio.create_task(_watch(account))
        yield
        for task in (watcher, *account.deliveries):
            task.cancel()


async def _watch(account: Account) -> None:
    while True:
        await asyncio.sleep(1)
        with suppress(ClientError, TimeoutError):
            await account.adopt_events()


if __name__ == "__main__":
    application = web.Application(middlewares=[authenticated])
    application.add_routes(routes)
    application.cleanup_ctx.append(_account)
    web.run_app(application, host=HOST, port=STRIPE, access_log=None, print=None)
