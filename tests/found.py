"""What a discovery finds, beside what the environment's file says: none of it may be wrong, nor hold a secret."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from opslib.deployment import env_file
from opslib.deployment.line import Asked, Line
from opslib.propertypulse import PropertyPulse
from tests import leaks


def lines(found: Iterable[Line | Asked]) -> dict[str, object]:
    """Give the values that were found, by where they stand."""
    return {one.key: one.value for one in found if isinstance(one, Line)}


def asked(found: Iterable[Line | Asked]) -> dict[str, Asked]:
    """Give what a person is asked for, by where it stands."""
    return {one.key: one for one in found if isinstance(one, Asked)}


def wrong(environment: PropertyPulse, found: Iterable[Line | Asked]) -> dict[str, tuple[object, object]]:
    """Give what was found otherwise than the file, or a default, has it: that, and what it should be."""
    return {key: (value, said) for key, value in lines(found).items() if (said := _setting(environment, key)) != value}


def leaked(environment: PropertyPulse, found: Iterable[Line | Asked]) -> list[str]:
    """Say which secret stands in what was found."""
    secrets = {
        key: value for key, value in env_file.read(environment.api.env_file).items() if key in environment.secrets
    }
    return leaks.shown(secrets, {one.key: str(dataclasses.asdict(one)) for one in found})


def bare(environment: PropertyPulse) -> PropertyPulse:
    """The environment as a discovery begins with it: what its API is, and what is secret there."""
    known = {name: getattr(environment, name) for name in ("title", "name", "approval", "api", "secrets", "tools")}
    return PropertyPulse.model_construct(**known)


def other(environment: PropertyPulse, folder: Path, values: Mapping[str, str | None]) -> PropertyPulse:
    """The same with an `.env` of its own, in which these keys have other values, or none."""
    file = folder / ".env"
    file.write_bytes(environment.api.env_file.read_bytes())
    file.chmod(0o600)
    env_file.edit(file, values, backup=False)
    return environment.model_copy(update={"api": environment.api.model_copy(update={"env_file": file})})


def _setting(environment: PropertyPulse, key: str) -> object:
    value: object = environment
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    return value
