"""What is found of both stand-ins, by their databases, their accounts and their code, is what their files say."""

from functools import cache
from typing import Any

import psutil
import pytest
import yaml

from opslib import propertypulse
from opslib.backups import discovery as of_backups
from opslib.database import discovery as of_database, schema
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.payments import discovery as of_stripe, payment_table
from opslib.propertypulse import PropertyPulse
from opslib.runbook import environment
from opslib.runbook.procedure import root

pytestmark = pytest.mark.usefixtures("plain")

BEFORE = ("title", "approval", "api", "secrets", "folder", "tools", "stand_in")
"""What is known of an environment before these are asked."""


def described(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(environment.file(name).read_text())
    return content


@cache
def found(name: str) -> list[Line | Asked]:
    content = described(name)
    known = PropertyPulse(name=name, **{key: content[key] for key in BEFORE if key in content})
    given = {"database.admin": content["database"]["admin"], "backups.credentials": content["backups"]["credentials"]}
    return [one for domain in (of_database, of_stripe, of_backups) for one in domain.discover(known, given)]


def expected(name: str, key: str) -> Any:
    """What the file says, or else the model."""
    content: Any = described(name)
    model: Any = propertypulse.load(name)
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
        model = getattr(model, part)
    dumped = [*model] if isinstance(model, tuple) else model
    return dumped if content is None else content


@pytest.mark.parametrize(("name", "least"), [("sandbox", 27), ("plain", 25)])
def test_each_line_is_as_the_file_has_it_and_none_shows_a_secret(name: str, least: int) -> None:
    said = found(name)
    lines = {one.key: one for one in said if isinstance(one, Line)}
    assert len({one.key for one in said}) == len(said)
    assert lines.pop("recovery.jobs").value == min(psutil.cpu_count() or 1, 2)
    assert {key: line.value for key, line in lines.items()} == {key: expected(name, key) for key in lines}
    assert len(lines) + 1 >= least
    known: Deployment = propertypulse.load(name)
    held = env_file.read(known.api.env_file)
    secrets = [held[key] for key in known.secrets if held.get(key)]
    secrets += [(root() / described(name)["database"]["admin"].removeprefix("file:")).read_text().strip()]
    assert not [one for one in said if any(secret in str(one) for secret in secrets)]


@pytest.mark.parametrize("name", ["sandbox", "plain"])
def test_with_what_is_found_the_tables_are_as_the_file_says(name: str) -> None:
    content: dict[str, Any] = {}
    for one in found(name):
        if isinstance(one, Line) and one.key.startswith("stripe."):
            *parts, last = one.key.split(".")
            part = content
            for word in parts:
                part = part.setdefault(word, {})
            part[last] = one.value
    described_before = {key: value for key, value in described(name).items() if key in BEFORE}
    made = PropertyPulse(name=name, **described_before, **content)
    with schema.reading(made) as connection:
        assert payment_table.fits(made, connection, events=True)
