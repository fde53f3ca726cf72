"""What is found of an API that no environment's file describes: on both stand-ins none of it is wrong."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from opslib import propertypulse
from opslib.api import discovery, pm2_app
from opslib.deployment import env_file
from opslib.deployment.line import Asked, Line
from opslib.propertypulse import PropertyPulse
from opslib.runbook.procedure import located
from tests.place import described
from tests.sandbox import layout, pm2 as prepared
from tests.sandbox.plain import api, checkout, fault, layout as plain_layout, pm2 as plain
from tests.sandbox.process import wait

pytestmark = pytest.mark.usefixtures("plain")

HOMES = {"sandbox": layout.PM2_HOME, "plain": plain_layout.PM2_HOME}
DECIDED = ("folder", "api.handover", "api.boot")
"""What an owner decides, or has decided otherwise than a measurement would."""
SERVER = 'require("http").createServer((_, answer) => answer.end("{}")).listen(%d)'
OTHER = 25123  # a port of its own
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="looks at another user's process, which only root has started")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login whose PATH has no PM2."""
    monkeypatch.setenv("PATH", os.defpath)


def discovered(name: str, given: Mapping[str, Any] | None = None) -> tuple[dict[str, Line], dict[str, Asked]]:
    """What is found of a stand-in, and what is asked for."""
    found = list(discovery.discover(name, HOMES[name], given or {}))
    lines = {one.key: one for one in found if isinstance(one, Line)}
    asked = {one.key: one for one in found if isinstance(one, Asked)}
    assert len(lines) + len(asked) == len(found), "each key once"
    return lines, asked


def known(name: str) -> dict[str, Any]:
    """What the environment's file says, by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in yaml.safe_load((layout.ROOT / f"parameters/{name}.yaml").read_text()).items():
        flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    trial = flat.pop("api.trial", {})
    return flat | {f"api.trial.{key}": one for key, one in trial.items()}


def agrees(lines: Mapping[str, Line], name: str) -> int:
    """Compare line by line; give how many the file has too."""
    file = known(name)
    same = [key for key in lines if key in file and key not in DECIDED]
    for key in same:
        expected = [one for one in file[key] if not one.endswith("_PREVIOUS")] if key == "secrets" else file[key]
        assert lines[key].value == expected, lines[key]
    return len(same)


def state(name: str) -> tuple[object, ...]:
    """What must be as it was: PM2's list, the checkout, the `.env`."""
    workers = (prepared if name == "sandbox" else plain).workers()
    held = [(one["pid"], one["pm2_env"]["status"], one["pm2_env"]["restart_time"]) for one in workers]
    dotenv = layout.DOTENV if name == "sandbox" else plain_layout.DOTENV
    return held, checkout.changes(), dotenv.stat().st_mtime_ns, sorted(os.listdir(dotenv.parent))


def said(name: str) -> dict[Path, bytes]:
    """What PM2's logs hold."""
    return {file: file.read_bytes() for file in (HOMES[name] / "logs").glob("*.log")}


@pytest.mark.parametrize(("name", "least"), [("sandbox", 10), ("plain", 12)])
def test_what_is_found_is_right_and_nothing_is_changed(name: str, least: int) -> None:
    before, logs = state(name), said(name)
    lines, asked = discovered(name)
    assert agrees(lines, name) >= least, sorted(lines)
    assert asked.keys() <= {"tokens.claims", "api.handover"}, asked
    assert state(name) == before
    for file, text in said(name).items():
        new = text[len(logs[file]) :].decode().splitlines()
        assert {*new} <= {"❌ No token provided", "🔔 Processing due reminders..."}, file


@pytest.mark.parametrize("name", ["sandbox", "plain"])
def test_what_is_found_makes_an_environment_and_shows_no_secret(name: str) -> None:
    lines, asked = discovered(name)
    content: dict[str, Any] = {"title": "t", "approval": "none", "name": name}
    for line in lines.values():
        inside, *keys = content, *line.key.split(".")
        for key in keys[:-1]:
            inside = inside.setdefault(key, {})
        inside[keys[-1]] = line.value
    content["tokens"]["claims"] = described(name)["tokens"]["claims"]
    env = PropertyPulse.model_validate(content)
    assert env.api.env_file.is_file() and (env.api.release / "server").is_dir()
    shown = repr([*lines.values(), *asked.values()])
    values = env_file.read(env.api.env_file)
    assert {key for key, value in values.items() if len(value) > 5 and value in shown} == set()
    assert env.values().keys() == env.secrets


def test_three_requests_are_counted_at_most() -> None:
    def left() -> int:
        return int(api.ask("/api/nowhere")[2]["ratelimit-remaining"])

    before = left()
    discovered("plain")
    assert before - left() - 1 <= 3


def test_what_only_the_owner_decides_is_asked_for(tmp_path: Path) -> None:
    lines, _ = discovered("plain", {"folder": str(tmp_path / "ours")})
    assert "folder" not in lines and not (tmp_path / "ours").exists()
    lines, asked = discovered("plain")
    assert "fork mode" in asked["api.handover"].what and asked["api.handover"].example == ""
    assert "nothing in the code reads JWT_SECRET" in asked["tokens.claims"].what
    assert lines["folder"].value == "~/.runbook/plain"
    lines, asked = discovered("sandbox")
    assert "api.handover" not in asked and "folder" not in lines
    assert asked["tokens.claims"].example == '{sub: "0", email: …, role: …, kind: …}'


def test_a_log_that_the_api_writes_itself_counts_where_pm2_does_not_have_its_lines() -> None:
    assert api.ask("/api/payments", b"{", token=api.oncall())[0] == 400
    file = plain_layout.LOGS / "combined.log"
    wait(lambda: file.read_text().endswith("}\n"), "the error's line")
    lines, _ = discovered("plain")
    assert lines["log.files"].value == [located(file)]
    assert "log.files" not in discovered("sandbox")[0], "winston's files there hold what PM2's do"


def test_a_stopped_app_still_tells_where_it_is() -> None:
    plain.run("-s", "stop", plain.APPLICATION)
    try:
        lines, asked = discovered("plain")
    finally:
        plain.begin()
    assert agrees(lines, "plain") >= 9, sorted(lines)
    assert "it is stopped: `pm2 restart propertypulse-api` first" in lines["api.name"].source
    assert "does not answer" in asked["tokens.route"].what and "stopped" in lines["api.url"].source


def test_another_process_on_its_port_is_not_asked() -> None:
    fault.break_("port-taken")
    try:
        lines, asked = discovered("plain")
    finally:
        fault.mend()
    assert agrees(lines, "plain") >= 9 and "answers 200" not in lines["api.health"].source
    assert "does not answer" in asked["tokens.route"].what


def test_of_two_apps_it_is_propertypulse_or_whichever_a_person_names(tmp_path: Path) -> None:
    (tmp_path / "other.js").write_text(SERVER % OTHER)
    (tmp_path / "package.json").write_text('{"name": "status-page"}')
    plain.run("-s", "start", str(tmp_path / "other.js"), "--name", "another", "--cwd", str(tmp_path))
    try:
        wait(lambda: bool(psutil.Process(_pid("another")).net_connections("tcp")), "the other app to listen")
        lines, _ = discovered("plain")
        assert lines["api.name"].value == plain.APPLICATION and agrees(lines, "plain") >= 12
        (tmp_path / "package.json").write_text('{"name": "propertypulse-status"}')
        lines, asked = discovered("plain")
        assert [*lines] == ["api.pm2_home", "tools"]
        assert asked["api.name"].what.endswith("another, propertypulse-api")
        lines, _ = discovered("plain", {"api.name": "another"})
        assert lines["api.url"].value == f"http://127.0.0.1:{OTHER}"
        assert "tokens.route" not in lines and "secrets" not in lines
    finally:
        plain.run("-s", "delete", "another")


def _pid(name: str) -> int:
    return next(int(one["pid"]) for one in json.loads(plain.run("-s", "jlist")) if one["name"] == name)


def test_a_home_without_a_daemon_gets_none(tmp_path: Path) -> None:
    (asked,) = discovery.discover("production", tmp_path, {})
    assert isinstance(asked, Asked) and asked.key == "api.pm2_home" and asked.example
    assert "no daemon of PM2's runs for it" in asked.what
    assert os.listdir(tmp_path) == []


@as_root
def test_the_daemon_of_another_user_is_said_to_be_theirs(tmp_path: Path) -> None:
    title = f"PM2 v7.0.4: God Daemon ({tmp_path})"  # as PM2 calls itself
    with subprocess.Popen([title, "60"], executable="/bin/sleep", user="nobody") as process:
        (tmp_path / "pm2.pid").write_text(str(process.pid))
        found = list(discovery.discover("production", tmp_path, {}))
        process.kill()
    (asked,) = found
    assert isinstance(asked, Asked) and "its daemon runs as nobody: become that user" in asked.what


def test_a_home_that_has_no_app_says_so(tmp_path: Path) -> None:
    variables = {**plain_layout.ENVIRONMENT, "PM2_HOME": str(tmp_path)}
    subprocess.run([layout.BIN / "pm2", "-s", "ping"], env=variables, check=True, capture_output=True)
    try:
        found = list(discovery.discover("production", tmp_path, {}))
    finally:
        subprocess.run([layout.BIN / "pm2", "-s", "kill"], env=variables, check=True, capture_output=True)
    assert isinstance(found[-1], Asked) and "PM2 lists no app at all" in found[-1].what


def test_which_app_is_the_api_is_told_by_its_checkout() -> None:
    (app,) = pm2_app.listed(propertypulse.load("plain"))
    assert app.fork and app.is_ours() and app.answers()
