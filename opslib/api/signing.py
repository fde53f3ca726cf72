"""The tokens that the API's code signs with the npm package jsonwebtoken: what is in them, and how long they live."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opslib.api import javascript, release
from opslib.api.release import Line

Value = str | int | bool | None

_SIGNS = r"(?:jwt|JWT|jsonwebtoken|jsonWebToken)\.sign"
DEFAULT = "HS256"
"""What jsonwebtoken signs with where nothing is said."""
_LIFE = re.compile(r"(\d+(?:\.\d+)?) *([a-z]*)", re.IGNORECASE)
_UNITS = (  # as the npm package ms names them
    (r"milliseconds?|msecs?|ms", 0.001),
    (r"seconds?|secs?|s", 1),
    (r"minutes?|mins?|m", 60),
    (r"hours?|hrs?|h", 3600),
    (r"days?|d", 86400),
    (r"weeks?|w", 604800),
    (r"years?|yrs?|y", 31557600),
)
_VARIABLE = re.compile(r"process\.env\.(\w+)(?:\s*(?:\|\||\?\?)\s*(.+))?")


@dataclass(frozen=True)
class Signing:
    """One place that signs. `lives` and `algorithms` are all that it may be called with, empty if that is not shown.

    A life of None is one without an end.
    """

    line: Line
    claims: Mapping[str, str]
    """The claims as the code writes them, with what each is set to."""
    lives: tuple[float | None, ...]
    algorithms: tuple[str, ...]

    @property
    def fixed(self) -> dict[str, str | int | bool]:
        """The claims, if each is the same in every token; empty otherwise."""
        found = {key: javascript.literal(text) for key, text in self.claims.items()}
        return {key: value for key, value in found.items() if value is not None} if None not in found.values() else {}


def all_of(folder: Path, variables: Mapping[str, str]) -> list[Signing]:
    """Give the places in the code below a folder that sign tokens; `variables` are those that the API has."""
    return list(_all(folder, variables))


def _all(folder: Path, variables: Mapping[str, str]) -> Iterator[Signing]:
    for file in release.code(folder):
        text = javascript.read(file)
        for at in javascript.calls(text, _SIGNS):
            claims, _, options, *_ = [*javascript.given(text, at), "", "", ""]
            held = javascript.fields(_object(text, claims))
            said = javascript.fields(_object(text, options or "{}"))
            lives, algorithms = tuple[float | None, ...](), tuple[str, ...]()
            if said or not options:
                ends = [seconds(value) for value in _values(text, said.get("expiresIn", ""), variables)]
                lives = (
                    (None,) if "expiresIn" not in said and "exp" not in held else () if None in ends else tuple(ends)
                )
                known = _values(text, said.get("algorithm", f'"{DEFAULT}"'), variables)
                algorithms = () if None in known else tuple(map(str, known))
            yield Signing(Line(file, javascript.line(text, at)), held, lives, algorithms)


def _object(text: str, written: str) -> str:
    """Give an object as it is written, or as the constant of this name is; `{}` if neither is shown."""
    held = written if written.startswith("{") else javascript.constant(text, written)
    return held if held.startswith("{") else "{}"


def seconds(life: Value) -> float | None:
    """Give the seconds of a life as jsonwebtoken takes it: a number of them, or a text as `7d`; None if neither."""
    if isinstance(life, int):
        return float(life)
    found = _LIFE.fullmatch(life or "")
    if not found:
        return None
    unit = found[2] or "ms"
    return next((float(found[1]) * each for names, each in _UNITS if re.fullmatch(names, unit, re.IGNORECASE)), None)


def _values(text: str, written: str, variables: Mapping[str, str]) -> list[Value]:
    """Give the values that an expression may have; None for each that is not shown."""
    if (value := javascript.literal(written)) is not None:
        return [value]
    if found := _VARIABLE.fullmatch(written):
        return [variables[found[1]]] if variables.get(found[1]) else _values(text, found[2] or "", variables)
    name = re.match(r"[\w$]+", written)
    held = javascript.constant(text, name[0]) if name and name[0] != "process" else ""
    if held.startswith("{"):
        return [javascript.literal(one) for one in javascript.fields(held).values()] or [None]
    return _values(text, held, variables) if held and held != written else [None]
