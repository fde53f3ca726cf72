"""The JWT secret on the stand-in: the states that its rotation starts from, and what must hold when it has ended."""

import base64
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import Request, urlopen

from opslib import env_file, environment, health, pm2, signing, token
from opslib.environment import Environment
from tests.sandbox import SandboxError
from tests.sandbox import pm2 as standin
from tests.sandbox.credentials import Credentials

INSTANCES = 2


def sandbox() -> Environment:
    """The stand-in as an environment."""
    return environment.load("sandbox")


def idle(secret: str = "") -> None:
    """No rotation is under way: one secret, a new one unless it is given, and nothing staged."""
    _put({signing.KEY: secret or token.make(), signing.PREVIOUS: None})


def overlap(days: float = 8) -> None:
    """A rotation was ended so many days ago, and its old secret is not retired."""
    old = token.make()
    _put({signing.KEY: token.make(), signing.PREVIOUS: old})
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    stage({signing.PREVIOUS: old, "JWT_SECRET_SINCE": since})


def stage(values: dict[str, str | None]) -> None:
    """Write values into the staging file, as a run that died would have left them."""
    file = signing.staged(sandbox()).file
    file.touch(0o600)
    if made := env_file.edit(file, values):
        env_file.drop(made)


def problem() -> str:
    """Say what is wrong with the state that a rotation has ended in; empty if nothing is."""
    env = sandbox()
    values = env_file.read(env.api.env_file)
    workers = pm2.workers(env)
    pids = {worker.pid for worker in workers}
    if len(workers) != INSTANCES or any(worker.status != "online" for worker in workers):
        return f"the workers are not {INSTANCES} that are online: {workers}"
    if (up := health.answering(env.api.health_url, pids)) != pids:
        return f"of the workers {pids} only {up} answer"
    if (standing := signing.found(env)) not in ("idle", "overlap"):
        return f"the rotation stands at {standing}, expected idle or overlap"
    if left := env_file.edits(env.api.env_file):
        return f"backups of the .env are left: {[edit.backup.name for edit in left]}"
    current, previous = values[signing.KEY], values.get(signing.PREVIOUS, "")
    expected = {"current": (current, 200), "previous": (previous, 200)}
    if (retired := signing.staged(env).previous) and not previous:
        expected["retired"] = (retired, 401)
    held, rows = token.prove(env, expected)
    if not held:
        return f"the workers do not accept what the .env says: {rows}"
    if wrong := [made for made in map(signed_by, [current] * 4 * INSTANCES) if not made]:
        return f"{len(wrong)} of {4 * INSTANCES} tokens are signed with another secret than the .env has"
    return ""


def signed_by(secret: str) -> bool:
    """Whether a token that the API makes at a login is signed with this secret."""
    credentials = Credentials.load()
    body = json.dumps({"email": credentials.login_email, "password": credentials.login_password}).encode()
    request = Request(f"{sandbox().api.url}/api/auth/login", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        made = json.load(answer)["accessToken"]
    text, _, signature = made.rpartition(".")
    digest = hmac.digest(secret.encode(), text.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == signature


def _put(values: dict[str, str | None]) -> None:
    """Set these keys of the `.env`, with no trace of a rotation beside it, and have every worker read them."""
    env = sandbox()
    for file in Path(env.api.env_file.resolve().parent).glob(".env.*"):
        file.unlink()
    if made := env_file.edit(env.api.env_file, values):
        env_file.drop(made)
    before = pm2.workers(env)
    ends = time.monotonic() + pm2.RELOAD_LOCK + 5
    while True:
        try:
            standin.run("-s", "reload", env.api.name)  # by name: by id, PM2 waits for the whole of listen_timeout
            break
        except SandboxError:  # a reload that was cut short by a kill
            if time.monotonic() > ends:
                raise
            time.sleep(1)
    pm2.settled(env, before, settle=0, within=30)
