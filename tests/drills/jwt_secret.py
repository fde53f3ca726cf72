"""The JWT secret on the stand-in: the states that its rotation starts from, and what must hold when it has ended."""

import base64
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.request import Request, urlopen

from opslib.api import jwt, jwt_rotation
from opslib.deployment import env_file
from tests.drills import standing
from tests.drills.standing import INSTANCES, nothing, sandbox
from tests.sandbox.credentials import Credentials

NOTHING = nothing(jwt_rotation.KEY)


def idle(secret: str = "") -> None:
    """No rotation is under way: one secret, which may be given, and nothing staged."""
    staged = jwt_rotation.staged(sandbox())
    left = jwt_rotation.found(sandbox()) != "idle" or staged.pending or staged.previous
    if secret or left or problems():
        standing.put({jwt_rotation.KEY: secret or jwt.make(), jwt_rotation.PREVIOUS: None}, NOTHING)


def first() -> None:
    """The secret that the stand-in was started with, and nothing staged."""
    idle(Credentials.load().jwt_secret)


def overlap(days: float = 8) -> None:
    """A rotation was ended so many days ago, and its old secret is not retired."""
    if jwt_rotation.found(sandbox()) != "overlap" or not jwt_rotation.staged(sandbox()).previous or problems():
        old = jwt.make()
        standing.put(
            {jwt_rotation.KEY: jwt.make(), jwt_rotation.PREVIOUS: old}, {**NOTHING, "JWT_SECRET_PREVIOUS": old}
        )
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    standing.stage({"JWT_SECRET_SINCE": since})


@contextmanager
def overdue() -> Iterator[None]:
    """An old secret is there to retire; afterwards the one that the stand-in was started with is."""
    overlap()
    try:
        yield
    finally:
        first()


def problems() -> list[str]:
    """Say what is wrong with the state that a rotation has ended in; nothing if all is well."""
    env, wrong = sandbox(), standing.problems()
    values = env_file.read(env.api.env_file)
    if (now := jwt_rotation.found(env)) not in ("idle", "overlap"):
        wrong.append(f"the rotation stands at {now}, expected idle or overlap")
    current, previous = values[jwt_rotation.KEY], values.get(jwt_rotation.PREVIOUS, "")
    expected = {"current": (current, 200), "previous": (previous, 200)}
    if (retired := jwt_rotation.staged(env).previous) and not previous:
        expected["retired"] = (retired, 401)
    if not (proven := jwt.prove(env, expected)):
        wrong.append(f"the workers do not accept what the .env says: {proven.evidence}")
    if others := [made for made in map(signed_by, [current] * 4 * INSTANCES) if not made]:
        wrong.append(f"{len(others)} of {4 * INSTANCES} tokens are signed with another secret than the .env has")
    return wrong


def signed_by(secret: str) -> bool:
    """Whether a token that the API makes at a login is signed with this secret."""
    credentials = Credentials.load()
    body = json.dumps({"email": credentials.login_email, "password": credentials.login_password}).encode()
    request = Request(f"{sandbox().api.url}/api/auth/login", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        made = json.load(answer)["accessToken"]
    text, _, signature = str(made).rpartition(".")
    digest = hmac.digest(secret.encode(), text.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == signature
