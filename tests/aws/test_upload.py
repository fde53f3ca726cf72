"""Tests of opslib.aws.upload: how the API is asked to sign an upload, against a small one of this process."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from opslib.api import log, pm2
from opslib.api.pm2 import Worker
from opslib.aws import aws, key_standing, upload
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import ID, SECRET, Pair
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment

MINE, OTHER = Pair("AKIAMINEMINEMINE0001", "mine/secret+" * 3), Pair("AKIAOTHEROTHER000002", "other/secret+" * 3)
SIGNING = {
    "route": "/sign",
    "body": {"entityType": "property"},
    "url": "data.uploadUrl",
    "key": "data.key",
    "sign_in": {"url": "/in?key={key}", "body": {"returnSecureToken": True}, "token": "idToken"},
}


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An API that signs with MINE, takes uploads, and knows a person as Firebase does; /late answers 429."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            signed = f"http://{self.headers['Host']}/put?X-Amz-Credential={MINE.id}%2F20260101%2Fus-east-1%2Fs3"
            if self.path == "/late":
                self.answer(429, {"retryAfter": 900})
            elif self.path == "/in?key=web":
                right = asked == {"email": "e", "password": "p", "returnSecureToken": True}
                self.answer(200 if right else 400, {"idToken": "token"})
            elif self.path == "/sign" and self.headers["Authorization"] == "Bearer token" and "entityType" in asked:
                self.answer(200, {"data": {"uploadUrl": signed, "key": "probe.png"}})
            else:
                self.answer(401, {})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {})

        def do_DELETE(self) -> None:
            self.send_response(204)
            self.end_headers()

        def answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    one = Worker(0, os.getpid(), "online", "fork", 0, 9, 9, None, False, log.mark([]))
    monkeypatch.setattr(pm2, "workers", lambda _: [one])
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def environment(folder: Path, url: str, signing: Mapping[str, Any] | None = SIGNING, **s3: Any) -> PropertyPulse:
    """An API with MINE in its `.env`, and an S3 of another maker."""
    (folder / "login.json").write_text('{"email": "e", "password": "p", "key": "web"}')
    (folder / ".env").write_text(f"{ID}={MINE.id}\n{SECRET}={MINE.secret}\nS3_ENDPOINT={url}\n")
    for name in ("login.json", ".env"):
        (folder / name).chmod(0o600)
    given = {"bucket": "uploads", "region": "auto", "login": f"file:{folder}/login.json", "signing": signing, **s3}
    api = {"name": "api", "url": url, "pm2_home": folder, "env_file": folder / ".env", "release": folder}
    known = {"title": "t", "approval": "none", "api": api, "secrets": [ID, SECRET], "s3": given}
    return PropertyPulse.model_validate(known)


def test_the_api_is_asked_as_the_environment_says(tmp_path: Path, url: str) -> None:
    env = environment(tmp_path, url)
    assert upload.signs(env, MINE), upload.signs(env, MINE).evidence
    other = upload.signs(env, OTHER)
    assert other.ok is False and other.evidence[0].found == "URLs signed with …0001"
    assert list(upload.told(env).values()) == ["POST /sign, once for each worker", "POST /in, once"]


@pytest.mark.parametrize(
    ("differs", "ok", "found"),
    [
        ({"url": "url"}, False, "KeyError"),
        ({"route": "/other"}, False, "401"),
        ({"route": "/late"}, None, "HTTP 429"),
        ({"sign_in": {"url": "/late"}}, None, "HTTP 429"),
        ({"sign_in": {"url": "/in?key={key}"}}, False, "HTTP 400"),
    ],
)
def test_what_falls_short_is_named(
    tmp_path: Path, url: str, differs: dict[str, Any], ok: bool | None, found: str
) -> None:
    answer = upload.signs(environment(tmp_path, url, {**SIGNING, **differs}), MINE)
    assert (answer.ok, answer.evidence[0].found) == (ok, found)


@pytest.mark.parametrize("without", ["signing", "login"])
def test_without_being_told_how_it_is_not_asked_and_that_is_said(tmp_path: Path, url: str, without: str) -> None:
    env = environment(tmp_path, url)
    assert env.s3
    env = env.model_copy(update={"s3": env.s3.model_copy(update={without: None})})
    assert upload.asked(env) is None and upload.signs(env, MINE).ok is None
    assert "the key alone is proven" in upload.told(env)["the API"]


def test_where_there_is_no_iam_the_pair_is_given(tmp_path: Path, url: str) -> None:
    file = tmp_path / "pair.json"
    keys = AccessKeys(environment(tmp_path, url, new_pair=f"file:{file}"))
    assert keys.maker == url and keys.arn == "" and "cannot tell here" in key_standing.told(keys)["keys"]
    assert key_standing.administered(keys).ok is None
    assert "cannot be read" in key_standing.given(keys).otherwise
    for pair, ok in ((MINE, False), (OTHER, True)):
        file.touch(0o600)
        file.write_text(json.dumps({"AccessKeyId": pair.id, "SecretAccessKey": pair.secret}))
        assert key_standing.given(keys).ok is ok
    keys.make()
    assert (keys.pair, keys.staged.current) == (OTHER, MINE)
    file.unlink()
    assert key_standing.given(keys) and keys.given() == OTHER  # a run that was killed has staged it
    with pytest.raises(BadEnvironment, match=r"s3.new_pair: there is no IAM"):
        aws.new_pair(environment(tmp_path, url))


@pytest.mark.parametrize(
    ("named", "iam", "other"),
    [
        ("https://x.r2.cloudflarestorage.com", False, True),
        ("https://s3.eu-west-1.amazonaws.com", False, False),
        ("http://127.0.0.1:25001", True, False),
    ],
)
def test_an_s3_of_another_maker_is_what_the_env_names(tmp_path: Path, named: str, iam: bool, other: bool) -> None:
    assert bool(aws.other_maker(environment(tmp_path, named, iam=iam))) == other
