"""SendGrid's Web API v3, asked with the API's own key or a reader's: patiently, and no more often than it allows.

Addresses and answers as in its public OpenAPI specification (twilio/sendgrid-oai, spec/json).
"""

import json
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3

from opslib.deployment import env_file, secret_reference
from opslib.deployment.deployment import Deployment
from opslib.mail.settings import Mail
from opslib.runbook.act import Act, act
from opslib.runbook.errors import BadEnvironment, ChangeFailed, RunbookError
from opslib.runbook.mask import mask

TIMEOUT = 10
"""Seconds for one answer."""
LONGEST_WAIT = 60
"""Seconds; a limit that lasts longer is told, not waited for."""
OWN = ("/v3/scopes", "/v3/mail/send")
"""What is asked with the API's own key, as it is about that key."""
PAGE = 500
"""Entries that one page of a list has at most, which is SendGrid's own limit."""


@dataclass(frozen=True)
class Reply:
    """What SendGrid said: `problem` is empty if it did what was asked; `status` is 0 where no answer came."""

    status: int
    content: Any = None
    problem: str = ""
    refused: bool = False
    """Whether it is the key itself that SendGrid does not take."""


class _Patience(urllib3.Retry):
    """A retry that also waits for the end of a limit where only X-RateLimit-Reset (seconds since 1970) tells it."""

    RETRY_AFTER_STATUS_CODES = frozenset({429})  # a 503 may come of a message that was taken

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        try:
            told = super().get_retry_after(response)
        except urllib3.exceptions.InvalidHeader:
            told = None
        reset = response.headers.get("X-RateLimit-Reset", "")
        if told is None and response.status == 429 and reset.isdigit():
            told = max(0.0, int(reset) - time.time())
        return None if told is None else min(told, LONGEST_WAIT)


# A limit, and a connection that was never made, are safe to try again whatever was asked: nothing has been done.
_READS = _Patience(
    total=3, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, backoff_factor=0.5, raise_on_status=False
)
_ACTS = _Patience(
    total=3, read=0, other=0, status_forcelist=(429,), allowed_methods=None, backoff_factor=0.5, raise_on_status=False
)


def settings(environment: Deployment) -> Mail:
    """Give the environment's `mail` part. Raise BadEnvironment if it has none."""
    return environment.part(Mail)


def key(environment: Deployment, path: str) -> str:
    """Give the key for an address: the API's own for what is about that key, else the reader, where one is named.

    Raise BadEnvironment if the `.env` has none.
    """
    if settings(environment).reader and path not in OWN:
        return secret_reference.resolve(settings(environment).reader, "SENDGRID_READER")
    name, file = settings(environment).key, environment.api.env_file
    value = env_file.read(file).get(name, "")
    if not value:
        raise BadEnvironment(f"{file} has no {name}: put SendGrid's key there, or correct `mail.key`")
    mask.add(name, value)
    return value


def ask(environment: Deployment, path: str, method: str = "GET", body: Any = None, *, acts: bool = True) -> Reply:
    """Send one request; never raises for what SendGrid or the network does.

    A GET is tried again after a limit, a server's error or no answer, and so is another request that `acts` not at
    all. One that acts is tried again only where SendGrid has refused it, or never got it.
    """
    retries = _READS if method == "GET" or not acts else _ACTS
    headers = {"Authorization": f"Bearer {key(environment, path)}"}
    url = settings(environment).url + path
    try:
        got = urllib3.request(method, url, json=body, headers=headers, timeout=TIMEOUT, retries=retries, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        return Reply(0, problem=f"no answer from SendGrid ({type(reason).__name__})")
    try:
        content = json.loads(got.data) if got.data else None
    except ValueError:
        return Reply(got.status, problem=f"HTTP {got.status} with a body that is no JSON: not SendGrid, or it is ill")
    problem = _problem(got.status, content)
    return Reply(got.status, content, problem, got.status == 401 and not _ELSE.search(problem))


def request(environment: Deployment, method: str, path: str, body: Any = None, *, done: Collection[int]) -> Act:
    """Make an act of one request, which is done where the answer is one of these; shown is what is sent."""

    def run() -> None:
        reply = ask(environment, path, method, body)
        if reply.status == 0:
            raise ChangeFailed(f"{method} {path}: {reply.problem}: whether it was done is not known")
        if reply.status not in done:
            raise ChangeFailed(f"SendGrid did not do {method} {path}: {reply.problem or f'HTTP {reply.status}'}")

    return act(f"{method} {path}", *(f"{key}: {json.dumps(value)}" for key, value in (body or {}).items()), run=run)


def listed(environment: Deployment, path: str) -> Iterator[dict[str, Any]]:
    """Give the entries of a list, page by page. Raise RunbookError if SendGrid does not say them all."""
    offset = 0
    while True:
        reply = ask(environment, f"{path}?{urlencode({'limit': PAGE, 'offset': offset})}")
        if reply.problem or not isinstance(reply.content, list):
            said = reply.problem or "no list"
            raise RunbookError(f"GET {path} from entry {offset} on: {said}. Run again once SendGrid answers.")
        yield from reply.content
        if len(reply.content) < PAGE:
            return
        offset += PAGE


def _problem(status: int, content: Any) -> str:
    if 200 <= status < 300:
        return ""
    errors = content.get("errors") if isinstance(content, dict) else None
    told = "; ".join(str(one.get("message", "")) for one in errors or [] if isinstance(one, dict))
    means = {
        401: "the key is refused",
        403: "not permitted to this key",
        429: f"the rate is limited, and was so after {LONGEST_WAIT} s or three tries",
    }
    known = _ELSE.search(told) if status in (401, 403) else None
    meant = _MEANT[known.lastgroup or ""] if known else means.get(status, "not done")
    return f"HTTP {status}, {meant}{f': {told}' if told else ''}"


# SendGrid says 401 and 403 also of what is no fault of the key's: its words tell.
_ELSE = re.compile(
    r"(?P<plan>(?:maximum )?credits? (?:is |are )?(?:exceeded|used)|plan is used up)"
    r"|(?P<address>\bIP\b.*\b(?:white|allow)|address of this machine)",
    re.IGNORECASE,
)
_MEANT = {
    "plan": "the plan is used up",
    "address": "the address of this machine is not allowed",
}
