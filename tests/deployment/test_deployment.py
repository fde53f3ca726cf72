"""Environments: what a file may say, and what is told, with file and line, about one that is wrong."""

from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.runbook import environment
from opslib.runbook.errors import BadEnvironment

GOOD = """\
title: Here
approval: none
secrets: [KEY]
limits: {run: 60}
api:
  name: api
  url: http://127.0.0.1:5000/
  pm2_home: pm2
  env_file: app/.env
  release: /srv/app
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    (tmp_path / "parameters").mkdir()
    return tmp_path.resolve()


def write(root: Path, text: str, name: str = "here") -> None:
    (root / f"parameters/{name}.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))


def test_a_good_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://kernel's-own")
    write(root, GOOD)
    one = propertypulse.load("here")
    assert (one.name, one.title, one.limits.run, one.limits.cell) == ("here", "Here", 60, 600)
    assert one.api.pm2_home == root / "pm2"
    assert one.api.release == Path("/srv/app")
    assert one.api.health_url == "http://127.0.0.1:5000/health"
    assert one.variables["PM2_HOME"] == str(root / "pm2")
    assert "DATABASE_URL" not in one.variables


@pytest.mark.parametrize(
    ("wrong", "line", "said"),
    [
        (GOOD.replace("title: Here\n", ""), 1, "title: Field required"),
        (GOOD.replace("none", "never"), 2, "approval.*: Input should be"),
        (GOOD.replace("[KEY]", "KEY"), 3, "secrets: Input should be a valid frozenset"),
        (GOOD.replace("[KEY]", "[KEY, [1]]"), 3, "secrets"),
        (GOOD.replace("run: 60", "run: -1"), 4, "limits.run: Input should be greater than 0"),
        (GOOD.replace("run: 60", "run: soon"), 4, "limits.run: Input should be a valid number"),
        (GOOD.replace("run: 60", "runs: 60"), 4, "limits.runs: Extra inputs are not permitted"),
        (GOOD.replace("name: api", "name: ''"), 6, "api.name: String should have at least 1 character"),
        (GOOD.replace("http:", "gopher:"), 7, "api.url: .*URL scheme should be 'http' or 'https'"),
        (GOOD.replace("http://127.0.0.1:5000/", "here"), 7, "api.url"),
        (GOOD.replace("pm2_home: pm2", "pm2_home: 3"), 8, "api.pm2_home: Input is not a valid path"),
        (GOOD + "  colour: red\n", 11, "api.colour: Extra inputs are not permitted"),
        (GOOD + "colour: red\n", 11, "colour: Extra inputs are not permitted"),
        (GOOD + "1: 2\n", 1, ""),
        ("- a\n- b\n", 1, "found list, expected keys and values"),
        ("", 1, "found NoneType, expected keys and values"),
        ("just text", 1, "found str"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(root: Path, wrong: str, line: int, said: str) -> None:
    write(root, wrong)
    with pytest.raises(BadEnvironment, match=rf"here\.yaml:{line}: {said}"):
        environment.load("here")


def test_all_that_is_wrong_is_told_at_once(root: Path) -> None:
    write(root, GOOD.replace("none", "never").replace("run: 60", "run: -1"))
    with pytest.raises(BadEnvironment) as caught:
        environment.load("here")
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\t- x", "title: \udc80", "a: &x [*x]", "a: !!python/object:os.x 1"]
)
def test_what_is_no_yaml_is_told(root: Path, text: str) -> None:
    write(root, text)
    with pytest.raises(BadEnvironment, match=r"here\.yaml"):
        environment.load("here")


@pytest.mark.parametrize(
    "name", ["", "there", "../here", "HERE", "a/b", "here\n", "x" * 200, "\x00", "\ud800", "here.yaml"]
)
def test_a_name_that_is_none(root: Path, name: str) -> None:
    write(root, GOOD)
    with pytest.raises(BadEnvironment, match=r"there is no environment .+: parameters/ has here\. To make one: "):
        environment.load(name)


def test_one_that_is_about_to_be_described(root: Path) -> None:
    write(root, GOOD)
    found = environment.load("there", new=True)
    assert (found.values(), found.policy("restart_api")) == ({}, "none") and "not connected" in found.title
    assert environment.load("here", new=True) == environment.load("here")
    with pytest.raises(BadEnvironment, match="expected small letters, digits and dashes"):
        environment.load("../there", new=True)


def test_names_are_those_of_deployments(root: Path) -> None:
    write(root, GOOD)
    write(root, "environment: here\n", "nightly-backup")  # a set of parameters
    write(root, GOOD, "production.example")
    assert environment.names() == ["here"]
