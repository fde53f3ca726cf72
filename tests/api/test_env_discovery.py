"""Which `.env` the API reads, and which release it runs, in the layouts that deployments have."""

import subprocess
from pathlib import Path

import pytest

from opslib.api import env_discovery
from opslib.api.pm2_app import App
from opslib.deployment.line import Asked, Line


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An app that runs in server/ of a checkout, with an `.env` there and one at the top."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for file in ("package.json", ".env", "server/package.json", "server/.env"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    return listed(tmp_path / "server")


def listed(folder: Path) -> App:
    return App("api", ({"pid": 0, "pm2_env": {"pm_cwd": str(folder), "node_args": []}},), 0)


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("", "server/.env"),
        ('require("dotenv").config({ quiet: true });', "server/.env"),
        ('import "dotenv/config";', "server/.env"),
        ('require("dotenv").config({ path: path.resolve(__dirname, "../.env") });', ".env"),
        ('dotenv.config({\n  path: new URL("../.env", import.meta.url).pathname,\n});', ".env"),
        ('dotenv.config({ path: "../.env" });', ".env"),
        ("dotenv.config({ path: `.env.${process.env.NODE_ENV}` });", None),
        ('dotenv.config();\ndotenv.config({ path: "../.env" });', None),
        ('require("dotenv-flow").config();', None),
    ],
)
def test_it_is_the_file_that_the_code_has_dotenv_read(app: App, tmp_path: Path, code: str, file: str | None) -> None:
    (app.folder / "server.js").write_text(code)
    found = env_discovery.found_env_file(app, tmp_path, app.folder)
    if file is None:
        assert isinstance(found, Asked) and found.example
    else:
        assert isinstance(found, Line) and found.value == str(tmp_path / file)


def test_one_above_is_only_offered(app: App, tmp_path: Path) -> None:
    (app.folder / ".env").unlink()
    found = env_discovery.found_env_file(app, tmp_path, app.folder)
    assert isinstance(found, Asked) and found.example == str(tmp_path / ".env")


def test_a_release_is_the_link_through_which_it_runs_or_the_top_of_its_checkout(app: App, tmp_path: Path) -> None:
    assert env_discovery.found_release(app).key == "api.release"
    assert env_discovery.found_release(app) == Line(
        "api.release", str(tmp_path), "the git checkout in which PM2 runs api"
    )
    (tmp_path / "current").symlink_to(".")
    link = env_discovery.found_release(listed(tmp_path / "current/server"))
    assert isinstance(link, Line) and link.value == str(tmp_path / "current")


def test_without_link_and_checkout_a_person_is_asked(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    found = env_discovery.found_release(listed(tmp_path / "server"))
    assert isinstance(found, Asked) and found.example == str(tmp_path / "server")
