"""Tests of opslib.api.jwt, against a small API that checks signatures itself."""

import base64
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opslib.api import jwt, log
from opslib.api.pm2 import Worker
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment

SECRET = "%41 @:/#'\" $HOME ümläut ✓"
TOKENS = {"route": "/api/things", "claims": {"sub": "0", "kind": "access"}, "longest": 100}


def environment(url: str = "http://127.0.0.1:9", tokens: Mapping[str, object] | None = TOKENS) -> PropertyPulse:
    api = {"name": "api", "url": url, "pm2_home": "pm2", "env_file": ".env", "release": "app"}
    known = {"title": "t", "approval": "none", "api": api, "secrets": ["JWT_SECRET"], "tokens": tokens}
    return PropertyPulse.model_validate(known)


@pytest.fixture
def api() -> Iterator[str]:
    """An API that answers 200 to a token signed with SECRET, 500 to one for /broken, else 401."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text, _, signature = self.headers["Authorization"].removeprefix("Bearer ").rpartition(".")
            wanted = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha256")).decode()
            status = 500 if "broken" in self.path else 200 if signature == wanted.rstrip("=") else 401
            self.send_response(status if self.path.endswith(f"?{jwt.MARK}") else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_secret_has_64_random_bytes() -> None:
    made = {jwt.make() for _ in range(100)}
    assert len(made) == 100
    assert {len(base64.urlsafe_b64decode(secret + "==")) for secret in made} == {64}


@pytest.mark.parametrize(("algorithm", "name"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
def test_a_token_is_a_jwt(algorithm: str, name: str) -> None:
    made = jwt.sign(environment(tokens={**TOKENS, "algorithm": algorithm}), SECRET)
    head, body, signature = (base64.urlsafe_b64decode(part + "==") for part in made.split("."))
    assert json.loads(head) == {"alg": algorithm, "typ": "JWT"}
    claims = json.loads(body)
    assert (claims["sub"], claims["kind"]) == ("0", "access")
    assert claims["exp"] - claims["iat"] == jwt.LIFE
    assert signature == hmac.digest(SECRET.encode(), made.rpartition(".")[0].encode(), name)


def test_without_a_route_there_is_no_token() -> None:
    with pytest.raises(BadEnvironment, match="has no `tokens:`"):
        jwt.sign(environment(tokens=None), SECRET)


def test_secrets_are_proven(api: str) -> None:
    proven = jwt.prove(environment(api), {"right": (SECRET, 200), "wrong": ("other", 401), "lost": ("", 401)})
    assert proven
    assert [row["answered"] for row in proven.evidence] == ["200 × 16", "401 × 16", "not asked", "401 × 16"]
    assert SECRET not in str(proven.evidence)
    assert not jwt.prove(environment(api), {"wrong": ("other", 200)})
    assert jwt.prove(environment(api), {"wrong": ("other", 0)})


def test_an_api_that_is_broken_or_down_proves_nothing(api: str) -> None:
    broken = environment(api, {**TOKENS, "route": "/broken"})
    assert jwt.answers(broken, SECRET, asks=2) == {500: 2}
    assert not jwt.prove(broken, {"any": (SECRET, 0)})  # garbage must be refused
    assert jwt.answers(environment(), SECRET, asks=2) == {0: 2}
    assert not jwt.prove(environment(), {"right": (SECRET, 200)})


def test_refusals_are_counted_by_reason_without_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.log"
    now = datetime.now(UTC)

    def said(reason: str, path: str = "/api", minutes: float = 0) -> str:
        at = (now - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
        return json.dumps({"message": "auth failed", "path": path, "reason": reason, "timestamp": at}) + "\n"

    invalid, expired = "JsonWebTokenError: invalid signature", "TokenExpiredError: jwt expired"
    file.write_text(said(invalid, minutes=30) + said(expired, minutes=5) + "no JSON\n[1]\n")
    worker = Worker(0, 1, "online", "cluster", 0, 9, 9, None, True, log.mark([file, tmp_path / "none.log"]))
    before = jwt.refused([worker], minutes=15)
    assert before == {"invalid signature": 0, "jwt expired": 1}
    with file.open("a") as more:
        more.write(said(invalid) * 2 + said(invalid, f"/api?{jwt.MARK}") + said(expired) + said("jwt malformed"))
    assert jwt.refused([worker]) == {"invalid signature": 2, "jwt expired": 1}
    assert jwt.calm([worker], before)
    monkeypatch.setattr(jwt, "SOME", 0)
    assert not jwt.calm([worker], before)
