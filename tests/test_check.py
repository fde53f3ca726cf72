"""`runbook check`: each line of an environment's file against both stand-ins, right, wrong, and with nobody there."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import proof as api_proof
from opslib.aws import aws, signing_proof
from opslib.aws.settings import S3
from opslib.backups.settings import Backups
from opslib.database import admin, database_url, proof as database_proof
from opslib.deployment import deployment_proof, env_file, proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof
from opslib.payments.settings import Stripe
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, RunbookError
from tests import leaks
from tests.place import Place, described, elsewhere, rooted
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import API, HOST, ROOT, url
from tests.sandbox.plain import fault, layout as plain_layout
from tests.sandbox.plain.layout import CHECKOUT

pytestmark = pytest.mark.usefixtures("plain")

WELL, REFUSED, FOUND = 0, 4, 5
SIGNS = {"✓": True, "✗": False, "?": None}
SLACK = 15
"""Seconds that a busy machine may take for the rest, which on a quiet one takes two."""
MADE_UP = "9b1d5c0e7a3f4c62"
"""A password, or a part of one, of the tests' own: it must not be shown either."""

Checked = dict[str, list[tuple[bool | None, str]]]


def check(root: Path, *arguments: str) -> tuple[int, str]:
    """Run the command; give its exit code and what it said, in which no secret may be."""
    done = subprocess.run(
        [sys.executable, "-m", "opslib.runbook.cli", "check", *arguments],
        env={**os.environ, "RUNBOOK_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr and (not done.stderr or done.returncode == REFUSED), done.stderr
    held = [propertypulse.load(name).values() for name in ("sandbox", "plain")]
    secrets = {key: value for one in held for key, value in one.items()} | {"made up": MADE_UP}
    secrets |= {name: value for name, value in asdict(Credentials.load()).items() if name not in leaks.KNOWN}
    assert leaks.shown(secrets, {"said": done.stdout + done.stderr}) == []
    return done.returncode, done.stdout


def read(said: str) -> Checked:
    """Give the lines that were said, by key: one key may have two."""
    found: Checked = {}
    for line in said.splitlines():
        match = re.fullmatch(r"([✓✗?]) (\S+) +(.+)", line)
        assert match, line
        found.setdefault(match[2], []).append((SIGNS[match[1]], match[3]))
    return found


def wrong(found: Checked) -> dict[str, str]:
    return {key: text for key, lines in found.items() for ok, text in lines if ok is False}


def untold(found: Checked) -> set[str]:
    return {key for key, lines in found.items() for ok, _ in lines if ok is None}


def left(name: str) -> list[object]:
    """Give what a check could leave: files of ours, objects, mails, rows."""
    environment = propertypulse.load(name)
    folders = (environment.place, environment.part(Backups).folder)
    s3 = aws.client(environment, "s3", aws.administrator(environment))
    with admin.connect(environment) as connection:
        table = environment.part(Stripe).payments.table
        rows = connection.execute(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t".encode())
        return [
            [sorted(folder.iterdir()) if folder.exists() else None for folder in folders],
            s3.list_objects_v2(Bucket=environment.part(S3).bucket).get("KeyCount"),
            len(fault.sendgrid("/_sandbox/messages")),
            rows.fetchall(),
        ]


def private(file: Path, content: str) -> str:
    """Write a file as a reference needs it; give the reference."""
    file.write_text(content)
    file.chmod(0o600)
    return f"file:{file}"


def copied(folder: Path, name: str, **values: str | None) -> str:
    """Copy the `.env` of an environment, with these values; give its path."""
    file = folder / ".env"
    file.write_bytes(propertypulse.load(name).api.env_file.read_bytes())
    file.chmod(0o600)
    env_file.edit(file, values, backup=False)
    return str(file)


def nested(content: Mapping[str, Any], *path: str, **values: Any) -> dict[str, Any]:
    """Give a part of an environment's file that differs in values further below."""
    if not path:
        return {**content, **values}
    return {**content, path[0]: nested(content.get(path[0], {}), *path[1:], **values)}


@pytest.mark.parametrize("name", ["sandbox", "plain"])
def test_every_line_of_a_stand_in_is_proven(tmp_path: Path, name: str) -> None:
    before, root = left(name), elsewhere(tmp_path, name)
    # Where no environment is named and none but stand-ins are there, the sandbox is meant.
    code, said = check(root, *(["-e", name] if name == "plain" else []))
    found = read(said)
    assert (code, wrong(found), untold(found)) == (WELL, {}, set()), said
    assert len(found) > 50
    counted = "2 workers" if name == "sandbox" else "1 worker"
    assert found["api.pm2_home"] == [(True, f"PM2's daemon runs, with {counted} of propertypulse-api")]
    assert left(name) == before, "nothing was made, sent or changed"
    lines = {key for key in described(name) if key not in ("title", "stand_in")}
    assert lines - {key.partition(".")[0] for key in found} == set(), "each part of the file has a line"


def test_each_wrong_line_is_named_and_no_other(tmp_path: Path) -> None:
    parts = described("sandbox")
    root = elsewhere(
        tmp_path,
        api={"env_file": copied(tmp_path, "sandbox", REDIS_URL=None, SESSION_SECRET=MADE_UP), "health": "/nowhere"},
        tokens={"route": "/health"},
        recovery={"prisma": "client"},
        s3=nested(parts["s3"], "signing", route="/api/uploads/nothing") | {
            "user": "somebody", "bucket": "nobodys-uploads", "other_bucket": parts["s3"]["bucket"],
        },
        database={"table": "rents", "start": "sudo -n start-nothing", "userlist": str(tmp_path / "userlist")},
        backups={"folder": str(tmp_path / "parameters/sandbox.yaml/backups"), "bucket": "nobodys-backups"},
        stripe={
            "mode": "live", "account": "acct_1Another", "endpoint": "we_1Nobodys", "needs": ["balance", "charge"],
            "new_key": private(tmp_path / "new_key", MADE_UP), "new_webhook_secret": "env:NOT_MADE_YET",
            "payments": {"columns": {"intent": "providerIntentId"}, "id_type": "uuid"},
            "events": {"table": "events_taken"},
        },
        mail={"sender": "somebody@nowhere.example", "webhook": "/api/webhooks/nothing"},
    )  # fmt: skip
    (tmp_path / "new_key").chmod(0o644)
    code, said = check(root, "-e", "sandbox")
    found = read(said)
    assert code == FOUND
    named = {
        "secrets": "REDIS_URL",
        "api.health": "/nowhere is answered 404",
        "tokens.route": "answered 200, not 401",
        "recovery.prisma": "client has no prisma/schema.prisma",
        "s3.user": "user/propertypulse-app",
        "s3.bucket": "no bucket nobodys-uploads",
        "s3.other_bucket": "may list propertypulse-uploads",
        "s3.signing.route": "answered 404",
        "database.table": "no rents",
        "database.start": "start-nothing",
        "database.userlist": "No such file",
        "backups.folder": "no folder",
        "backups.bucket": "no bucket nobodys-backups",
        "stripe.mode": "test mode",
        "stripe.account": "acct_1PropertyPulseTest",
        "stripe.endpoint": "we_1Nobodys",
        "stripe.needs": "charge",
        "stripe.new_key": "0644",
        "stripe.payments.columns.intent": "provider_intent_id",
        "stripe.payments.id_type": "integer",
        "stripe.events.table": "no events_taken, nor anything like it",
        "mail.sender": "somebody@nowhere.example",
        "mail.webhook": "/api/webhooks/nothing",
    }
    assert wrong(found).keys() ^ named.keys() == set(), said
    assert [key for key, text in named.items() if text not in wrong(found)[key]] == []
    assert "SESSION_SECRET" in wrong(found)["secrets"]
    assert found["stripe.new_webhook_secret"] == [(True, "nothing is there yet, nor need it be until a rotation")]
    # What rests on a line that is wrong is not called wrong, nor right.
    assert {key.rpartition(".")[0] for key in untold(found)} == {"s3", "s3.signing", "stripe", "stripe.events"} | {
        "stripe.payments"
    }
    assert [line[0] for line in said.splitlines()] == sorted((line[0] for line in said.splitlines()), key="✓✗?".index)


def test_each_wrong_login_is_named_and_no_other(tmp_path: Path) -> None:
    superuser = admin.url(propertypulse.load("plain"))
    root = elsewhere(
        tmp_path,
        "plain",
        approval="second-person",
        api={"name": "another-api"},
        s3={
            "administrator": f"file:{tmp_path}/nothing",
            "login": private(tmp_path / "login", json.dumps({"email": "x@y.example", "password": MADE_UP, "key": "k"})),
        },
        database={"admin": private(tmp_path / "admin", database_url.with_login(superuser, "postgres", MADE_UP))},
        backups={"credentials": private(tmp_path / "aws", json.dumps({"AccessKeyId": MADE_UP}))},
        stripe={"reader": "env:NOT_SET"},
        mail={"key": "MAIL_KEY"},
    )
    code, said = check(root, "-e", "plain")
    found = read(said)
    assert code == FOUND
    named = {
        "approval": "no `signers`",
        "api.name": "PM2 lists no another-api",
        "s3.administrator": "No such file",
        "s3.login": "does not take this login",
        "database.admin": "password authentication failed",
        "backups.credentials": "is not JSON with AccessKeyId",
        "stripe.reader": "NOT_SET is not set",
        "mail.key": "has no MAIL_KEY",
    }
    assert wrong(found).keys() ^ named.keys() == set(), said
    assert [key for key, text in named.items() if text not in wrong(found)[key]] == []
    assert {"api.url", "api.release", "s3.signing.url", "backups.bucket", "stripe.webhook", "mail.sender"} < untold(
        found
    )


@pytest.fixture
def silent() -> Iterator[str]:
    """A service that takes connections and never answers; its host and port."""
    with socket.create_server((HOST, 0), backlog=64) as server:
        yield f"{HOST}:{server.getsockname()[1]}"


def test_services_that_hang_are_named_in_time(tmp_path: Path, silent: str) -> None:
    file, there = copied(tmp_path, "sandbox"), f"http://{silent}"
    login = re.sub(r"@[^/]+/", f"@{silent}/", env_file.read(Path(file))["DATABASE_URL"])
    env_file.edit(Path(file), {"DATABASE_URL": login}, backup=False)
    services: dict[str, Any] = {part: {"url": there} for part in ("stripe", "mail")}
    services |= {part: {"endpoint": there} for part in ("s3", "backups")}
    root, begun = elsewhere(tmp_path, api={"env_file": file, "url": there}, **services), time.monotonic()
    code, said = check(root, "-e", "sandbox", "--json")
    assert code == FOUND and time.monotonic() - begun < proof.LONGEST + SLACK
    found = [json.loads(line) for line in said.splitlines()]
    assert [one["key"] for one in found if one["ok"] is False] == []
    unanswered = {(one["key"], one["found"]) for one in found if one["ok"] is None}
    assert {"secrets.DATABASE_URL", "database.table", "api.url", "s3.signing.sign_in"} < {key for key, _ in unanswered}
    late = f"{there} has not answered within {proof.LONGEST:g} s"
    assert {(key, late) for key in ("s3.bucket", "backups.bucket", "stripe.mode", "mail.key")} < unanswered
    well = {one["key"] for one in found if one["ok"]}
    assert {"api.pm2_home", "api.name", "api.release", "database.admin", "folder", "tools", "stripe.events.id"} < well


def test_what_the_api_logs_in_with_is_proven(tmp_path: Path) -> None:
    held = env_file.read(propertypulse.load("plain").api.env_file)["DATABASE_URL"]
    answers = {
        database_url.with_login(held, "pulse", MADE_UP): (False, "password authentication failed"),
        re.sub(r":\d+/", ":9/", held): (None, "Connection refused"),
        "postgres://nowhere": (False, "has no"),
    }
    for login, (ok, said) in answers.items():
        content = described("plain")
        content["api"]["env_file"] = copied(tmp_path, "plain", DATABASE_URL=login)
        found = dict(proof.answers([*database_proof.prove(_loaded(tmp_path, "plain", content))][:1]))[
            "secrets.DATABASE_URL"
        ]
        assert (found.ok, said in found.evidence) == (ok, True), found


def _loaded(folder: Path, name: str, content: Mapping[str, Any]) -> Deployment:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_ROOT", str(rooted(folder, name, content)))
        return propertypulse.load(name)


@pytest.mark.parametrize(
    ("name", "part", "line", "ok", "said"),
    [
        ("sandbox", "api", {"url": "http://127.0.0.1:9"}, False, "nobody answers there"),
        ("plain", "api", {"url": url(API)}, False, "none of propertypulse-api's"),
        ("sandbox", "api", {"url": f"{url(plain_layout.API)}"}, None, "the system does not tell"),
        ("sandbox", "api", {"pm2_home": str(ROOT / "notebooks")}, False, "nobody is PM2's daemon"),
        ("sandbox", "api", {"release": str(ROOT / "notebooks")}, False, "is neither a link nor a checkout"),
        ("sandbox", "api", {"release": str(CHECKOUT)}, False, f"not in {CHECKOUT}"),
        ("plain", "api", {"trial": {"variables": {"ALARMS": "false"}}}, False, "no code names ALARMS"),
        ("sandbox", "tokens", {"claims": {"sub": "0", "kind": "refresh"}}, False, "is answered 401"),
        ("sandbox", "log", {"files": ["/nowhere/api.log"]}, False, "/nowhere/api.log is not there"),
    ],
)
def test_each_line_about_the_api(
    tmp_path: Path, name: str, part: str, line: dict[str, Any], ok: bool | None, said: str
) -> None:
    content = described(name)
    content[part] = content.get(part, {}) | line
    found = dict(proof.answers([*api_proof.prove(_loaded(tmp_path, name, content))]))
    (key,) = (f"{part}.{key}" for key in line)
    assert (found[key].ok, said in found[key].evidence) == (ok, True), found
    others = [other for other, answer in found.items() if answer.ok is False and other != key]
    assert others == (["tokens.claims"] if ok is None else []), "another API, which takes other tokens"


@pytest.mark.parametrize(
    ("line", "key", "said"),
    [
        ({"bucket": "propertypulse-backups"}, "s3.bucket", "to another bucket"),
        ({"region": "eu-central-1"}, "s3.region", "signs for us-east-1"),
        ({"presigned": 300}, "s3.presigned", "lives 900 s"),
        ({"signing": {"url": "link"}}, "s3.signing.url", "the answer has no link"),
        ({"signing": {"url": "key"}}, "s3.signing.url", "is no URL that is signed"),
        ({"signing": {"key": "object.name"}}, "s3.signing.key", "the answer has no object.name"),
        ({"signing": {"sign_in": {"url": "/api/auth/nothing"}}}, "s3.signing.sign_in", "HTTP 404"),
        ({"signing": {"sign_in": {"url": "/api/auth/login", "token": "jwt"}}}, "s3.signing.sign_in", "no jwt"),
    ],
)
def test_each_line_about_the_signing(tmp_path: Path, line: dict[str, Any], key: str, said: str) -> None:
    content = described("sandbox")
    content["s3"] |= {**line, "signing": content["s3"]["signing"] | line.get("signing", {})}
    found = dict(proof.answers([*signing_proof.prove(_loaded(tmp_path, "sandbox", content))]))
    assert {other: answer.evidence for other, answer in found.items() if answer.ok is False}.keys() == {key}, found
    assert said in found[key].evidence


def test_tools_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, bin_ = described("sandbox"), tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))
    for tools, said in (
        (bin_, "pm2, node, git, psql, pg_dump, pg_restore: neither in"),
        (tmp_path / "no", "no folder"),
    ):
        environment = _loaded(tmp_path, "sandbox", {**content, "tools": str(tools)})
        (one,) = (one for one in deployment_proof.prove(environment) if one.key == "tools")
        found = one.ask()
        assert found.ok is False and said in found.evidence


def test_what_is_raised_is_no_answer_and_shows_nothing() -> None:
    def known() -> Answer:
        raise RunbookError("PM2's daemon does not run")

    def unknown() -> Answer:
        raise ValueError(MADE_UP)

    found = proof.answers([Proof("one", "PM2", known), Proof("two", "PM2", unknown)])
    assert [(key, answer.ok, answer.evidence) for key, answer in found] == [
        ("one", None, "PM2's daemon does not run"),
        ("two", None, "PM2 could not be asked (ValueError)"),
    ]


def test_what_is_found_once_is_found_once_also_in_vain() -> None:
    asked = list[int]()

    def find() -> int:
        asked.append(1)
        time.sleep(0.05)
        raise BadParameter("nothing there")

    found = proof.once(find)
    said = [
        answer.evidence for _, answer in proof.answers([Proof(key, "", lambda: Answer(bool(found()))) for key in "abc"])
    ]
    assert said == ["nothing there", "see a", "see a"] and len(asked) == 1


@pytest.mark.parametrize(
    ("lines", "ok"),
    [
        ('ann namespaces="runbook" ssh-ed25519 AAAAC3Nz ann@here\n# two\nbob ssh-ed25519 AAAAC3Nz\n', True),
        ("ann,bob ssh-rsa AAAAB3Nz\n", True),
        ("ann ssh-ed25519 AAAAC3Nz\n", False),
        ('ann namespaces="git" ssh-ed25519 AAAAC3Nz\nbob ssh-ed25519 AAAAC3Nz\n', False),
        ("ssh-ed25519 AAAAC3Nz\nbob ssh-ed25519 AAAAC3Nz\n", False),
        ("", False),
    ],
)
def test_who_may_sign(place: Place, monkeypatch: pytest.MonkeyPatch, lines: str, ok: bool) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    (place.folder / "signers").write_text(lines)
    described = place.folder / "parameters/test.yaml"
    described.write_text(f"signers: signers\n{described.read_text()}")
    (one,) = (one for one in deployment_proof.prove(propertypulse.load("test")) if one.key == "signers")
    assert one.ask().ok is ok


def test_a_person_is_not_asked(place: Place) -> None:
    ((key, answer),) = proof.answers([Proof("key", "nobody", lambda: proof.reference("ask:", "KEY"))])
    assert (key, answer.ok) == ("key", None)


def test_a_file_that_is_wrong_itself_is_refused(place: Place) -> None:
    described = place.folder / "parameters/test.yaml"
    described.write_text(f"{described.read_text()}nothing: 1\n")
    code, said = check(place.folder)
    assert (code, said) == (REFUSED, "")
