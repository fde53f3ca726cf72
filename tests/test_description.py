"""A description of a deployment: the file that its lines make."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from opslib import description, environment_file
from opslib.deployment.line import Asked, Line
from opslib.description import Description
from opslib.environment_file import EXAMPLE
from opslib.propertypulse import PropertyPulse, load
from opslib.runbook.errors import BadParameter, RunbookError
from tests.sandbox.layout import ROOT


def lines(name: str) -> tuple[Line, ...]:
    """The lines of a committed environment."""
    content = yaml.safe_load((ROOT / "parameters" / f"{name}.yaml").read_text())
    return tuple(flat(content, PropertyPulse))


def flat(content: dict[str, Any], part: type[BaseModel], at: str = "") -> list[Line]:
    found = []
    for word, value in content.items():
        inner = environment_file.part_of(part.model_fields[word])
        if inner and isinstance(value, dict):
            found += flat(value, inner, f"{at}{word}.")
        else:
            found.append(Line(f"{at}{word}", value, "a test gave it"))
    return found


@pytest.mark.parametrize("name", ["sandbox", "plain"])
def test_the_file_is_read_as_its_lines_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = Description("another", lines(name))
    text, meant = described.text(), load(name).model_dump(exclude={"name"})
    assert described.environment().model_dump(exclude={"name"}) == meant
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    (tmp_path / "parameters").mkdir()
    environment_file.write("another", text)
    assert description.reads("another", described)
    assert environment_file.absent("another", text) and not environment_file.absent("another", text + "#")


def test_a_part_that_lacks_a_line_stands_in_the_file_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tuple(one for one in lines("sandbox") if one.key not in ("mail.sender", "backups.bucket"))
    asked = (Asked("mail.sender", "the address", "no-reply@example.com"), Asked("backups.bucket", "the bucket", "b-1"))
    described = Description("another", known, asked)
    lacks = described.complete()
    assert [one["line"] for one in lacks.evidence] == ["mail.sender", "backups.bucket"]
    hint = shlex.split(lacks.otherwise.partition("-p given ")[2])[0].rstrip(".")
    assert description.said(hint) == {"mail.sender": "no-reply@example.com", "backups.bucket": "b-1"}
    assert "mail.sender, backups.bucket" in described.findings()[0].what
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / EXAMPLE).symlink_to(ROOT / "parameters" / EXAMPLE)
    environment_file.write("another", described.text())
    read = load("another")
    assert read.mail is None and read.backups is None and read.stripe is not None
    text = described.text()
    assert "  # sender: no-reply@example.com" in text and "# mail:" in text
    # What is switched on by hand is what was found.
    switched = text.replace("# mail:", "mail:").replace("  # sender:", "  sender:").replace("  # url:", "  url:")
    (tmp_path / "parameters/another.yaml").write_text(switched)
    assert load("another").mail is not None


def test_a_part_is_left_out_where_a_default_would_be_a_guess() -> None:
    asked = (Asked("stripe.payments.unit", "whether amounts are in cents", "minor"), Asked("mail.reader", "a key"))
    known = tuple(one for one in lines("plain") if one.key != "stripe.payments.unit")
    found = Description("another", known, asked).environment()
    assert found.stripe is None and found.mail is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stripe.events: null, stripe.events.table: x", "cannot both be given"),
        ("title: 2024-13-99", "expected `LINE: VALUE"),
        ("title: !!int abc", "expected `LINE: VALUE"),
        ("title: a} #", "expected `LINE: VALUE"),
        ("nothing", "there is no line 'nothing'"),
    ],
)
def test_what_is_given_is_read_as_yaml_or_refused(text: str, said: str) -> None:
    with pytest.raises(BadParameter, match=re.escape(said)):
        description.said(text)


def test_a_part_is_given_line_by_line() -> None:
    given = description.said("stripe.payments: {table: payments, columns: {id: number}}, tokens.claims: {sub: '0'}")
    assert given == {
        "stripe.payments.table": "payments", "stripe.payments.columns.id": "number", "tokens.claims": {"sub": "0"}
    }  # fmt: skip


def test_a_file_with_a_secret_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    (tmp_path / "parameters").mkdir()
    with pytest.raises(RunbookError, match="would hold a secret"):
        environment_file.write("another", "mail: {url: 'http://user:m4ilPassw0rd@127.0.0.1'}\n")
    assert [*(tmp_path / "parameters").iterdir()] == []


def test_lines_that_are_broken_do_not_break_the_file() -> None:
    odd = Line("title", "pulse\nevil: 1", "said\nover two lines")
    described = Description("another", (*(one for one in lines("plain") if one.key != "title"), odd))
    assert yaml.safe_load(described.text())["title"] == odd.value


def test_what_a_person_gave_can_be_given_again() -> None:
    given = {"s3.signing.sign_in.url": "http://127.0.0.1:1/v1?key={key}", "tokens.claims": {"sub": "0"}}
    described = Description("another", tuple(Line(key, value, description.GIVEN) for key, value in given.items()))
    assert description.said(described.given) == given


def test_a_file_of_somebody_else_is_neither_written_over_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    with pytest.raises(RunbookError, match=r"another\.yaml cannot be written: No such file"):
        environment_file.write("another", "a: 1\n")
    (tmp_path / "parameters").mkdir()
    file = tmp_path / "parameters/another.yaml"
    file.write_text("a: 2\n")
    with pytest.raises(RunbookError, match="by somebody else"):
        environment_file.write("another", "a: 1\n")
    environment_file.remove("another", "a: 1\n")
    assert file.read_text() == "a: 2\n"
    environment_file.remove("another", "a: 2\n")
    assert [*file.parent.iterdir()] == []
