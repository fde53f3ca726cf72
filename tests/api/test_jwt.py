"""Tests of opslib.api.jwt, against small APIs of this process: one checks signatures, others fall short of that."""

import base64
import hmac
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opslib.api import jwt, jwt_rotation, log, pm2, poll
from opslib.api.pm2 import Worker
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment

SECRET = "%41 @:/#'\" $HOME ümläut ✓"
TOKENS = {"route": "/api/things", "claims": {"sub": "0", "kind": "access"}, "longest": 100}


def environment(url: str = "http://127.0.0.1:9", tokens: Mapping[str, object] | None = TOKENS) -> PropertyPulse:
    api = {"name": "api", "url": url, "pm2_home": "pm2", "env_file": ".env", "release": "app"}
    known = {"title": "t", "approval": "none", "api": api, "secrets": ["JWT_SECRET"], "tokens": tokens}
    return PropertyPulse.model_validate(known)


@pytest.fixture
def asked() -> Counter[str]:
    """How often each route was asked."""
    return Counter()


@pytest.fixture
def api(asked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An API of this process, which answers 200 to a token signed with SECRET and else 401, but for some routes.

    /broken answers 500, /unread 401 and /open 200 whatever the token; /limited may be asked once in the time that it
    says (/busy in a second, three times in all), and says how often.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            route = self.path.partition("?")[0]
            asked[route] += 1
            text, _, signature = self.headers.get("Authorization", "").removeprefix("Bearer ").rpartition(".")
            wanted = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha256")).decode()
            status = 200 if text and signature == wanted.rstrip("=") else 401
            status = {"/broken": 500, "/unread": 401, "/open": 200}.get(route, status)
            limited = (route == "/limited" and asked[route] > 1) or (route == "/busy" and asked[route] == 2)
            self.send_response((429 if limited else status) if self.path.endswith(f"?{jwt.MARK}") else 404)
            body = json.dumps({"retryAfter": 812 if route == "/limited" else 1}).encode() if limited else b""
            if route in ("/limited", "/busy", "/spent"):
                left = 2 if route == "/spent" else 197
                for name, value in (("Limit", 200), ("Remaining", left), ("Reset", 812)):
                    self.send_header(f"RateLimit-{name}", str(value))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(pm2, "workers", lambda _: [worker(os.getpid())])
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def worker(pid: int, *logs: Path) -> Worker:
    return Worker(0, pid, "online", "cluster", 0, 9, 9, None, True, log.mark(logs))


def deployed(folder: Path, url: str, route: str, code: str = "") -> PropertyPulse:
    """An environment with SECRET in its `.env`, this route, and this line of code."""
    (folder / "app").mkdir()
    (folder / "app/auth.js").write_text(f"// JWT_SECRET is not read here\n{code}\n")
    (folder / ".env").touch(0o600)
    env_file.edit(folder / ".env", {"JWT_SECRET": SECRET}, backup=False)
    given = environment(url, {**TOKENS, "route": route})
    places = {"pm2_home": folder, "env_file": folder / ".env", "release": folder / "app"}
    return given.model_copy(update={"api": given.api.model_copy(update=places)})


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


def test_secrets_are_proven_with_one_request_for_each_worker(api: str, asked: Counter[str]) -> None:
    proven = jwt.prove(environment(api), {"right": (SECRET, 200), "wrong": ("other", 401), "lost": ("", 401)})
    assert proven
    assert [row.answered for row in proven.evidence] == ["200", "401", "not asked", "401"]
    assert asked == {"/api/things": 3}
    assert SECRET not in str(proven.evidence)
    assert not jwt.prove(environment(api), {"wrong": ("other", 200)})
    assert jwt.prove(environment(api), {"wrong": ("other", 0)})


def test_where_nobody_knows_who_answers_it_is_asked_more_often(
    api: str, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [worker(1), worker(2**22 + 1)]  # neither has the other end of our connection
    monkeypatch.setattr(pm2, "workers", lambda _: others)
    assert jwt.answers(environment(api), SECRET) == {200}
    assert asked == {"/api/things": poll.ASKS}


def test_an_api_that_is_broken_or_down_proves_nothing(api: str) -> None:
    broken = environment(api, {**TOKENS, "route": "/broken"})
    assert jwt.answers(broken, SECRET) == {500}
    assert jwt.prove(broken, {"any": (SECRET, 0)}).ok is False  # garbage must be refused
    assert jwt.answers(environment(), SECRET) == {0}
    assert jwt.prove(environment(), {"right": (SECRET, 200)}).ok is False


def test_an_api_that_was_asked_too_often_tells_nothing(api: str, asked: Counter[str]) -> None:
    limited = environment(api, {**TOKENS, "route": "/limited"})
    assert jwt.prove(limited, {"wrong": ("other", 200)}).ok is False  # that was told before the limit
    proven = jwt.prove(limited, {"right": (SECRET, 200)}, without=True)
    assert proven.ok is None and "answers again in 812 s" in proven.otherwise
    assert [row.answered for row in proven.evidence] == ["429", "not asked", "not asked"]
    assert asked == {"/limited": 3}


def test_an_api_that_was_asked_too_often_is_waited_for_within_bounds(api: str, asked: Counter[str]) -> None:
    assert jwt.prove(environment(api, {**TOKENS, "route": "/busy"}), {"right": (SECRET, 200)})
    assert asked == {"/busy": 3}


@pytest.mark.parametrize(
    ("route", "code", "ok", "said"),
    [
        ("/api/things", "", True, ""),
        ("/unread", "", False, "does not seem to check tokens with JWT_SECRET"),
        ("/unread", "const { JWT_SECRET } = process.env;", None, "does not seem to check tokens with JWT_SECRET"),
        ("/open", "", False, "asks for no token"),
        ("/broken", "", False, "Compare the .env"),
    ],
)
def test_whether_the_api_checks_tokens_with_the_secret(
    tmp_path: Path, api: str, route: str, code: str, ok: bool | None, said: str
) -> None:
    env = deployed(tmp_path, api, route, code)
    answer = jwt_rotation.accepted(env)
    assert (answer.ok, jwt_rotation.unread(answer)) == (ok, route == "/unread")
    assert said in answer.otherwise
    found = jwt_rotation.named(env)
    assert [one.line for one in found if not isinstance(one, str)] == ([2] if code else []), found
    assert code or found == "no code of the API's own names JWT_SECRET"


@pytest.mark.parametrize(("route", "ok"), [("/api/things", True), ("/busy", True), ("/spent", False)])
def test_what_asking_costs_is_compared_with_what_the_api_allows(tmp_path: Path, api: str, route: str, ok: bool) -> None:
    cost = jwt_rotation.affordable(jwt_rotation.accepted(deployed(tmp_path, api, route)), 6)
    assert (cost.ok, cost.evidence.plan, cost.evidence.apply) == (ok, 3, 6)
    assert cost.evidence.limit == ("not said" if route == "/api/things" else "200")


def test_refusals_are_counted_by_reason_without_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.log"
    now = datetime.now(UTC)

    def said(reason: str, path: str = "/api", minutes: float = 0) -> str:
        at = (now - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
        return json.dumps({"message": "auth failed", "path": path, "reason": reason, "timestamp": at}) + "\n"

    invalid, expired = "JsonWebTokenError: invalid signature", "TokenExpiredError: jwt expired"
    file.write_text(said(invalid, minutes=30) + said(expired, minutes=5) + "no JSON\n[1]\n")
    one = worker(1, file, tmp_path / "none.log")
    before = jwt.refused(environment(), [one], minutes=15)
    assert before == {"invalid signature": 0, "jwt expired": 1}
    with file.open("a") as more:
        more.write(said(invalid) * 2 + said(invalid, f"/api?{jwt.MARK}") + said(expired) + said("jwt malformed"))
    assert jwt.refused(environment(), [one]) == {"invalid signature": 2, "jwt expired": 1}
    assert jwt.calm(environment(), [one], before)
    monkeypatch.setattr(jwt, "SOME", 0)
    assert not jwt.calm(environment(), [one], before)


PLAIN = "❌ Authentication error: JsonWebTokenError: invalid signature\n    at verify (x.js:1)\n"


def test_plain_lines_count_though_they_do_not_tell_of_whose_token(tmp_path: Path) -> None:
    file, now = tmp_path / "out.log", datetime.now(UTC)
    stamps = [(now - timedelta(minutes=minutes)).isoformat() for minutes in (30, 5)]
    file.write_text("".join(f"{at}: {line}\n" for at in stamps for line in PLAIN.splitlines()))
    one = worker(1, file)
    assert jwt.refused(environment(), [one], minutes=15) == {"invalid signature": 1, "jwt expired": 0}
    with file.open("a") as more:
        more.write(PLAIN * 2 + "❌ Authentication error: TokenExpiredError: jwt expired\n❌ No token provided\n")
    assert jwt.refused(environment(), [one]) == {"invalid signature": 2, "jwt expired": 1}
    told = jwt.told(environment(), [one])
    assert told.ok is None and "of 3 tokens" in told.evidence and "not of which request" in told.evidence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("401 bad token\n", "The logs cannot be read: none of 1 entries is known"),
        ("", "no line tells of our own tokens"),
        ("🔔 Processing due reminders...\n", "no line tells of our own tokens"),
    ],
)
def test_what_the_log_does_not_tell_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setattr(jwt, "WITHIN", 0)
    file = tmp_path / "out.log"
    one = worker(1, file)
    file.write_text(text)
    told = jwt.told(environment(), [one])
    assert told.ok is None and said in told.evidence
    file.write_text(json.dumps({"path": f"/api?{jwt.MARK}", "reason": "invalid signature"}) + "\n")
    assert jwt.told(environment(), [one])
