"""connect_deployment, against both stand-ins: what it finds, what it asks for, and the file that it writes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.runbook import procedure
from opslib.runbook.errors import FOUND
from tests import leaks, place
from tests.sandbox.layout import ROOT

ASKED = {
    "sandbox": {
        "tokens.claims": "{sub: '0', kind: access, role: canary}",
        "s3.signing.body": "{fileName: probe.txt}",
    },
    "plain": {
        "tokens.claims": "{sub: '0', kind: access}",
        "s3.signing.body": "{entityType: property, entityId: rotation-probe, contentType: image/png}",
        "s3.signing.sign_in.url": "'http://127.0.0.1:25005/v1/accounts:signInWithPassword?key={key}'",
    },
}
"""What only a person knows of a stand-in, besides where secrets lie."""
SILENT = {"title", "approval", "stand_in", "folder", "secrets", "api.boot", "recovery.jobs"}
"""What a person decides, is made for the name, or is of this machine."""


@dataclass(frozen=True)
class Connected:
    """A deployment that was connected: what was said of it, and where the file lies."""

    environment: propertypulse.PropertyPulse
    root: Path
    outcome: str
    record: str
    said: str

    @property
    def file(self) -> Path:
        return self.root / "parameters/connected.yaml"


def runbook(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opslib.runbook.cli", *words]
    given = {**os.environ, "RUNBOOK_ROOT": str(root)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=given)


def given(name: str) -> str:
    """What a person gives: references, and what nobody else knows."""
    described = place.described(name)
    at: dict[str, str] = {key: f"file:{ROOT / described[part][word].removeprefix('file:')}" for key, part, word in (
        ("database.admin", "database", "admin"), ("backups.credentials", "backups", "credentials"),
        ("s3.administrator", "s3", "administrator"), ("s3.login", "s3", "login"))}  # fmt: skip
    at |= {"backups.folder": str(ROOT / described["backups"]["folder"])}
    at |= {key: described["backups"][key.split(".")[1]] for key in ("backups.bucket", "backups.region")}
    at |= {f"stripe.{key}": f"file:{ROOT / described['stripe'][key].removeprefix('file:')}"
           for key in ("new_key", "new_webhook_secret")}  # fmt: skip
    at |= {"database.start": described["database"]["start"]} | ASKED[name]
    return ", ".join(f"{key}: {value}" for key, value in at.items())


@pytest.fixture(scope="module", params=["sandbox", "plain"])
def connected(request: pytest.FixtureRequest, plain: None, tmp_path_factory: pytest.TempPathFactory) -> Connected:
    known = propertypulse.load(request.param)
    root = tmp_path_factory.mktemp("connected")
    for folder in ("parameters", "notebooks"):
        (root / folder).mkdir()
    (root / "notebooks").rmdir()
    (root / "notebooks").symlink_to(ROOT / "notebooks")
    (root / "parameters/production.example.yaml").symlink_to(ROOT / "parameters/production.example.yaml")
    words = ["-e", "connected", "-p", "pm2_home", str(known.api.pm2_home), "-p", "given", given(request.param)]
    done = runbook(root, "run", "connect_deployment", *words, "--apply", "--reason", "a test connects it")
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    record = Path(done.stdout.splitlines()[-1]).read_text()
    return Connected(known, root, json.loads(record)["metadata"]["opslib"]["outcome"], record, done.stdout)


def steps(connected: Connected, kind: str) -> list[dict[str, Any]]:
    outputs = [o for cell in json.loads(connected.record)["cells"] for o in cell.get("outputs", [])]
    said = [output["metadata"]["opslib"] for output in outputs if "opslib" in output.get("metadata", {})]
    return [one for one in said if one["step"] == kind]


def flat(content: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def test_it_finds_at_least_45_values_and_none_of_them_is_wrong(connected: Connected) -> None:
    assert connected.outcome == "applied", connected.said
    rows = [row for one in steps(connected, "note") for row in one.get("evidence", []) if "where it came from" in row]
    found = {row["line"] for row in rows if row["where it came from"] != "a person gave it"}
    assert len(found) >= 45, sorted(found)
    read = propertypulse.PropertyPulse(**yaml.safe_load(connected.file.read_text()), name=connected.environment.name)
    told, meant = (flat(json.loads(one.model_dump_json(exclude_none=True))) for one in (read, connected.environment))
    wrong = {key: (told.get(key), meant.get(key)) for key in found & {*told} if told.get(key) != meant.get(key)}
    # The first stand-in's file has no trial, as its releases are tried in another way.
    wrong.pop("api.trial.port", None)
    assert not {key: values for key, values in wrong.items() if not {key, key.split(".")[0]} & SILENT}
    assert {*connected.environment.secrets} - {"JWT_SECRET_PREVIOUS"} <= {*read.secrets}


def test_no_secret_is_in_the_file_or_in_the_record(connected: Connected) -> None:
    secrets = {
        key: value
        for key, value in env_file.read(connected.environment.api.env_file).items()
        if key in connected.environment.secrets
    }
    texts = {"the file": connected.file.read_text(), "the record": connected.record, "the terminal": connected.said}
    assert len(secrets) >= 7
    assert leaks.shown(secrets, texts) == []


def test_each_procedure_is_said_to_work_or_what_it_lacks(connected: Connected) -> None:
    (table,) = (one for one in steps(connected, "note") if one["title"] == "Which procedures work here")
    said = {row["procedure"]: row["here"] for row in table["evidence"]}
    assert {*said, "connect_deployment"} == {*procedure.names()}
    assert "cannot" not in said.values()
    assert said["restart_api"] == ("works" if connected.environment.name == "sandbox" else "within a limit")


def test_a_file_that_is_there_is_not_written_over(connected: Connected) -> None:
    before = connected.file.read_text()
    connected.file.write_text(before + "# by hand\n")
    try:
        words = ["-e", "connected", "-p", "pm2_home", str(connected.environment.api.pm2_home)]
        done = runbook(connected.root, "run", "connect_deployment", *words, "-p", "accept_missing", "True", "--apply")
        assert done.returncode == 1 and "No other file has this name" in done.stdout, done.stdout
        assert connected.file.read_text() == before + "# by hand\n"
    finally:
        connected.file.write_text(before)


def test_the_file_is_proven_against_the_world(connected: Connected) -> None:
    done = runbook(connected.root, "check", "-e", "connected")
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("✓")]
    assert done.returncode in (0, FOUND) and not wrong, done.stdout


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("databse.admin: file:x", "there is no line 'databse.admin'"),
        ("database.admin: hunter2hunter2", "expected a reference"),
        ("database.admin: postgresql://admin:hunter2hunter2@db/x", "holds what looks like a secret"),
        ("api.url: [", "expected `LINE: VALUE, LINE: VALUE`"),
        ("stripe.mode: neither", "stripe.mode: Input should be 'live' or 'test'"),
    ],
)
def test_what_is_given_has_to_fit_and_is_not_repeated(said: str, expected: str, plain: None, tmp_path: Path) -> None:
    root = place.elsewhere(tmp_path)
    done = runbook(root, "run", "connect_deployment", "-e", "another", "-p", "given", said)
    assert expected in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert "hunter2hunter2" not in done.stdout
    assert "@db/x" not in Path(done.stdout.splitlines()[-1]).read_text()
    assert not (root / "parameters/another.yaml").exists()


def test_without_pm2_it_says_what_to_do(plain: None, tmp_path: Path) -> None:
    root = place.elsewhere(tmp_path)
    (tmp_path / "nobody").mkdir()
    words = ["-e", "another", "-p", "pm2_home", str(tmp_path / "nobody")]
    done = runbook(root, "run", "connect_deployment", *words)
    assert done.returncode == 1 and "no daemon of PM2's runs for it" in done.stdout, done.stdout
    assert "no API was found" in done.stdout and "Traceback" not in done.stdout
    done = runbook(root, "run", "connect_deployment", *words, "--apply")
    assert done.returncode == 1 and "Every line that a procedure needs has a value" in done.stdout, done.stdout


@pytest.mark.long
def test_every_procedure_plans_with_the_file_as_with_one_by_hand(connected: Connected) -> None:
    """A procedure whose ground is lacking ends the same way with both: with the file that was written, and by hand."""
    differ = {}
    for name in procedure.names():
        ends = [
            runbook(root, "run", name, "-e", environment).returncode
            for root, environment in ((connected.root, "connected"), (ROOT, connected.environment.name))
        ]
        if name != "connect_deployment" and ends[0] != ends[1]:
            differ[name] = ends
    assert not differ
