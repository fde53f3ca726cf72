"""The release in force: a secret that its code names must have a value somewhere."""

from pathlib import Path

import pytest

from opslib.api import pm2, release
from opslib.propertypulse import PropertyPulse

CODE = "const secret = process.env.JWT_SECRET; const old = process.env.JWT_SECRET_PREVIOUS;"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    """An API whose code names two secrets, one of which it can do without."""
    monkeypatch.setattr(pm2, "variables", lambda environment: {})
    (tmp_path / "releases/one/src").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/one")
    (tmp_path / "current/src/env.js").write_text(CODE)
    (tmp_path / ".env").write_text("PORT=1\n")
    api = {"name": "api", "url": "http://127.0.0.1:9", "pm2_home": tmp_path, "env_file": tmp_path / ".env"}
    known = {"title": "t", "approval": "none", "api": {**api, "release": tmp_path / "current"}}
    return PropertyPulse.model_validate({**known, "secrets": ["JWT_SECRET", "JWT_SECRET_PREVIOUS", "NO_OTHER"]})


@pytest.mark.parametrize("line", ["", "JWT_SECRET=\n", "MY_JWT_SECRET=x\n"])
def test_a_secret_without_a_value_is_named_with_the_code_that_wants_it(env: PropertyPulse, line: str) -> None:
    env.api.env_file.write_text(line)
    answer = release.finds_its_secrets(env)
    assert answer.ok is False
    assert [(one.secret, one.named_in.name) for one in answer.evidence] == [("JWT_SECRET", "env.js")]
    assert answer.otherwise.startswith("Put JWT_SECRET into the .env")


def test_a_value_in_the_file_or_held_by_pm2_will_do(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    env.api.env_file.write_text("JWT_SECRET=x\n")
    assert release.finds_its_secrets(env)
    env.api.env_file.write_text("")
    monkeypatch.setattr(pm2, "variables", lambda environment: {"JWT_SECRET": "x"})
    assert release.finds_its_secrets(env)


def test_what_others_wrote_is_not_the_api_s_code_and_no_code_says_nothing(env: PropertyPulse) -> None:
    code = env.api.release / "src/env.js"
    (env.api.release / "node_modules").mkdir()
    code.rename(env.api.release / "node_modules/env.js")
    assert release.finds_its_secrets(env).ok is None
    code.write_text("")
    assert release.finds_its_secrets(env)
