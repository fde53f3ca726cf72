"""What a deployment is said to be able to do: what leads nowhere does not work, and what is not known is said so."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from opslib import capability, propertypulse
from opslib.propertypulse import PropertyPulse

pytestmark = pytest.mark.usefixtures("sandbox")


def changed(part: str, **lines: Any) -> PropertyPulse:
    """The stand-in, of which these lines of a part are others."""
    known = propertypulse.load("sandbox")
    there: BaseModel = getattr(known, part)
    return known.model_copy(update={part: there.model_copy(update=lines)})


def said(environment: PropertyPulse) -> dict[str, tuple[str, str]]:
    """What is said of each procedure, and because of what."""
    rows = capability.standing(environment).procedures()
    return {row["procedure"]: (row["here"], row["because"]) for row in rows}


def number(name: str) -> str:
    return str([one.name for one in capability.CAPABILITIES].index(name) + 1)


def test_all_works_on_what_was_prepared() -> None:
    assert {*said(propertypulse.load("sandbox")).values()} == {("works", "")}


@pytest.mark.parametrize(
    ("part", "lines", "lacks", "procedure"),
    [
        ("database", {"admin": "file:/nowhere/at/all"}, "database.admin leads to a URL", "tune_queries"),
        ("backups", {"credentials": "env:NOWHERE_AT_ALL"}, "backups.credentials leads to a key", "backup_database"),
        ("s3", {"administrator": ""}, "the file names who may change the keys of AWS", "rotate_s3_credentials"),
        ("database", {"start": ""}, "the file names the command that starts PostgreSQL", "start_database"),
    ],
)
def test_what_leads_nowhere_cannot_work(part: str, lines: dict[str, str], lacks: str, procedure: str) -> None:
    here, because = said(changed(part, **lines))[procedure]
    assert here == "cannot" and number(lacks) in because.removeprefix("lacks ").split(", ")


def test_a_reference_that_a_person_answers_is_not_asked_for() -> None:
    assert said(changed("database", admin="ask:"))["tune_queries"][0] == "cannot be told"


def test_what_pm2_would_have_to_tell_is_not_known_without_it(tmp_path: Path) -> None:
    found = said(changed("api", pm2_home=tmp_path))
    assert found["restart_api"][0] == "cannot be told"
    assert number("no request is lost when workers are replaced") in found["restart_api"][1]
    assert found["send_test_mail"] == ("works", "")
