"""The tokens that the API's code signs with the npm package jsonwebtoken: what is in them, and how long they live."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opslib.api import javascript
from opslib.api.release import Line

Value = str | int | bool | None

_MODULE = r"""["'`]jsonwebtoken["'`]"""
_NAMED = re.compile(rf"(?:import|const|let|var)\s+(?:\*\s+as\s+)?(\w+)\s*(?:=\s*require\(|from)\s*{_MODULE}")
_TAKEN = re.compile(rf"\{{[^{{}}]*\bsign(?:\s*(?::|as)\s*(\w+))?[^{{}}]*\}}\s*(?:=\s*require\(|from)\s*{_MODULE}")
_OTHERS = r"(?:new\s+)?SignJWT|(?:\w+\.)*jwtService\.sign(?:Async)?"  # jose's and Nest's, which say the rest elsewhere
_PACKED = re.compile(r"jsonwebtoken|SignJWT|expiresIn")  # in a bundle, whose names are not the code's own
_SECRET = re.compile(r"jwt_?secret", re.IGNORECASE)
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
    by_secret: bool
    """Whether the code shows that it signs with JWT_SECRET, and with no other."""
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
    for file, text in javascript.files(folder).items():
        if not text and _PACKED.search(file.read_text("utf-8", "replace")):
            yield Signing(Line(file, 1), True, {}, (), ())
        known = [rf"{name}\.sign" for name in _NAMED.findall(text)]
        known += [name or "sign" for name in _TAKEN.findall(text)]
        for at in javascript.calls(text, "|".join(known)) if known else ():
            claims, secret, options, *_ = [*javascript.given(text, at), "", "", ""]
            held, said = (javascript.fields(_object(text, one)) for one in (claims, options))
            shown = said or not options
            lives = _lives(text, held, said, variables) if shown else ()
            algorithms = _values(text, said.get("algorithm", f'"{DEFAULT}"'), variables) if shown else []
            yield Signing(
                javascript.line(file, text, at),
                bool(_SECRET.search(" ".join((secret, *javascript.constants(text, secret))))),
                held,
                lives,
                () if None in algorithms else tuple(map(str, algorithms)),
            )
        for at in javascript.calls(text, _OTHERS):
            yield Signing(javascript.line(file, text, at), True, {}, (), ())


def _lives(
    text: str, claims: Mapping[str, str], said: Mapping[str, str], variables: Mapping[str, str]
) -> tuple[float | None, ...]:
    if "expiresIn" not in said:
        return () if "exp" in claims else (None,)
    ends = [seconds(value) for value in _values(text, said["expiresIn"], variables)]
    return () if None in ends else tuple(ends)


def _object(text: str, written: str) -> str:
    """Give an object as it is written, or as the constant of this name is; `{}` if neither is shown."""
    found = [one for one in (written, *javascript.constants(text, written)) if one.startswith("{")]
    return found[0] if len(found) == 1 else "{}"


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
    values = list[Value]()
    for held in javascript.constants(text, name[0]) if name and name[0] != "process" else ():
        if held.startswith("{"):
            values += map(javascript.literal, javascript.fields(held).values())
        elif held != written:
            values += _values(text, held, variables)
    return values or [None]
