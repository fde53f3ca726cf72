"""A variable of the API's: under which of its usual names the code reads it, and what the code gets there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from opslib.api import pm2, release
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.errors import RunbookError

_DEFAULT = r"""\s*(?:\|\||\?\?|=)\s*(?P<quote>["'`])(?P<default>[^"'`$]*)(?P=quote)"""


@dataclass(frozen=True)
class Variable:
    """A variable with what the code gets; `value` is empty where that is nothing."""

    name: str
    value: str = field(repr=False)
    source: str
    """Where the value stands, in words for people."""


def read(environment: Deployment, names: Sequence[str], *, unnamed: Sequence[str] = ()) -> list[Variable]:
    """Give those of these variables that the code names, in this order; `unnamed` ones are a library's to read.

    As with dotenv what PM2 holds comes before the `.env`, and the code's own default after both.
    """
    wanted = [*names, *unnamed]
    defaults: dict[str, tuple[str, str]] = {}
    for line, found in release.search(environment.api.release, rf"\b({'|'.join(wanted)})\b(?:{_DEFAULT})?"):
        default = (found["default"] or "") if "process.env" in found.string else ""
        if found[1] not in defaults or (default and not defaults[found[1]][0]):
            defaults[found[1]] = (default, str(line))
    try:
        held = pm2.variables(environment)
    except RunbookError:  # PM2 does not run: then it holds nothing that a start would take
        held = {}
    file, given = env_file.read(environment.api.env_file), list[Variable]()
    for name in (name for name in wanted if name in defaults or name in unnamed):
        default, place = defaults.get(name, ("", ""))
        if name in held and held[name] != file.get(name):
            given.append(Variable(name, held[name], f"PM2 holds {name}, which counts before the .env"))
        elif file.get(name) or not default:
            given.append(Variable(name, file.get(name, ""), f"{name} of the .env"))
        else:
            given.append(Variable(name, default, f"the code's default of {name} ({place})"))
    return given


def values(found: Iterable[Variable]) -> list[Variable]:
    """Give those that have a value, each value once: more than one is for a person to choose from."""
    return list({one.value: one for one in reversed([*found]) if one.value}.values())[::-1]


def said(found: Iterable[Variable]) -> str:
    """Say of each where it stands, and what it is."""
    return ", ".join(f"{one.source} says {one.value}" for one in found)
