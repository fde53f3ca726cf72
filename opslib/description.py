"""A description of a deployment: the lines of its environment's file, found or given, and what is missing."""

import shlex
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from opslib import environment_file
from opslib.api import discovery as api
from opslib.aws import discovery as aws
from opslib.backups import discovery as backups
from opslib.database import discovery as database
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.mail import discovery as mail
from opslib.payments import discovery as payments
from opslib.propertypulse import PropertyPulse
from opslib.runbook import environment
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, CheckFailed, first_line
from opslib.runbook.finding import Finding, Severity
from opslib.runbook.mask import mask
from opslib.runbook.question import Question

GIVEN = "a person gave it"
GUESSES = ("backups.endpoint", "database.table", "s3.endpoint", "stripe.events", "stripe.payments", "tokens.algorithm")
"""Lines without which a file would say something of the world: of amounts, of names, of who is asked."""
DOMAINS: Mapping[str, Callable[[Deployment, Mapping[str, Any]], Iterator[Line | Asked]]] = {
    "database": database.discover,
    "backups": backups.discover,
    "stripe": payments.discover,
    "s3": aws.discover,
    "mail": mail.discover,
}
"""By the part of the file that it finds, who is asked."""


@dataclass(frozen=True)
class Description:
    """What is known of a deployment, line by line."""

    name: str
    lines: tuple[Line, ...] = ()
    asked: tuple[Asked, ...] = ()
    """What was neither found nor given."""

    @property
    def needed(self) -> list[Asked]:
        """What procedures need of that."""
        return [one for one in self.asked if one.example]

    def rows(self, *parts: str) -> list[dict[str, Any]]:
        """Give the lines of these parts of the file, for people."""
        return [
            {"line": one.key, "value": environment_file.written(one.value), "where it came from": one.source}
            for one in self.lines
            if one.key.split(".")[0] in parts
        ]

    def questions(self) -> list[Question]:
        """Give what to ask a person, what procedures need first."""
        asked = sorted(self.asked, key=lambda one: not one.example)
        return [Question(one.key, one.what, one.example or "may be left out") for one in asked]

    def complete(self) -> Answer:
        """Whether no line is missing that a procedure needs."""
        lacks = [{"line": one.key, "what to give": one.what, "as": one.example} for one in self.needed]
        given = environment_file.flow({one.key: yaml.safe_load(one.example) for one in self.needed})
        otherwise = f"Give them, with the places of yours: -p given {shlex.quote(given)}. To write the file without: "
        return Answer(not lacks, lacks, f"{otherwise}-p accept_missing True")

    @property
    def given(self) -> str:
        """What a person gave, as `given` takes it: for the copy that carries a plan out."""
        return environment_file.flow({one.key: one.value for one in self.lines if one.source == GIVEN})

    def findings(self) -> list[Finding]:
        """Give what stands in the way of procedures: lines that are missing."""
        missing = ", ".join(one.key for one in self.needed)
        do = f"Give them in `given`, or put them into parameters/{self.name}.yaml once it is written."
        what = f"the file lacks {len(self.needed)} lines that procedures need: {missing}"
        return [Finding(what, do=do, severity=Severity.NOTICE)] if missing else []

    def environment(self) -> PropertyPulse:
        """Give the environment that the lines make, without the parts that lack a line. Raise CheckFailed.

        Where a default would be a guess about the world, a line that is missing lacks as well.
        """
        guessed = {one.key.split(".")[0] for one in self.needed if one.key.startswith(GUESSES)}
        return _environment(self.name, [one for one in self.lines if one.key.split(".")[0] not in guessed])

    def text(self) -> str:
        """Give the file: each line with what it says, and where its value came from."""
        whole = self.environment()
        kept = [one for one in self.lines if _stands(whole, one.key)]
        lacks = [one.key for one in self.needed]
        left_out = [Asked(one.key, _unfinished(one, lacks), environment_file.written(one.value)) for one in self.lines
                    if one not in kept]  # fmt: skip
        return environment_file.text(self.name, kept, (*self.asked, *left_out))


def discover(name: str, pm2_home: str = "", given: Mapping[str, Any] | None = None) -> Description:
    """Ask PM2, the code, the `.env`, PostgreSQL, AWS, Stripe and SendGrid; what is given stands before what is found.

    Nothing is changed. Raise CheckFailed if what was found and given does not go together.
    """
    given = given or {}
    known = [
        Line("title", f"{name.capitalize()} ({socket.gethostname()})", "the name of this machine"),
        Line("approval", "digest", "as nobody said otherwise: what is applied was read before"),
    ]  # fmt: skip
    home = pm2_home or str(given.get("api.pm2_home", ""))
    found = list(api.discover(name, Path(home) if home else None, given))
    first = [*known, *_lines(found), *_given(given)]
    if any(one.key == "api.env_file" for one in first):
        described = _environment(name, first)
        mask.know(described.values())
        with ThreadPoolExecutor(len(DOMAINS)) as side_by_side:  # most of it is waiting
            for part in side_by_side.map(lambda part: list(_found(part, described, given)), DOMAINS):
                found += part
    found = [_bare(one) for one in found]
    lines = {one.key: one for one in (*known, *_lines(found), *_given(given))}
    asked = {one.key: one for one in found if isinstance(one, Asked) and one.key not in lines}
    return Description(name, tuple(lines.values()), tuple(asked.values()))


def said(given: str) -> dict[str, Any]:
    """Read `database.admin: file:~/url, s3.login: file:~/login.json`. Raise BadParameter for what is no such line."""
    try:
        lines = yaml.safe_load("{" + given + "\n}")
    except (yaml.YAMLError, ValueError):
        raise BadParameter("given: expected `LINE: VALUE, LINE: VALUE`, as in `database.admin: file:~/url`") from None
    return _fitting(lines)


def answered(answers: Mapping[str, str]) -> dict[str, Any]:
    """Read what a person has typed into a form, as it would stand in the file. Raise BadParameter as `said` does."""
    read = {}
    for key, text in answers.items():
        try:
            read[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise BadParameter(f"{key}: cannot be read as YAML; quote it") from None
    return _fitting(read)


def need_fitting(key: str, value: Any) -> None:
    """Raise BadParameter if the file has no such line, or its value is of another kind. The value is not repeated."""
    if (field := environment_file.field_of(key)) is None:
        raise BadParameter(
            f"given: there is no line {key[:80]!a}; parameters/{environment_file.EXAMPLE} has all that there are"
        )
    kind: Any = field.annotation
    for limit in field.metadata:
        kind = Annotated[kind, limit]
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        mask.add(key, str(value))  # it may be the secret itself, where a reference to it belongs
        raise BadParameter(f"given: {key}: {error.errors()[0]['msg']}") from None


def reads(name: str, described: Description) -> Answer:
    """Whether the file is read as the lines say that it is."""
    read, meant = environment.load(name), described.environment()
    differs = [key for key in PropertyPulse.model_fields if getattr(read, key) != getattr(meant, key)]
    return Answer(not differs, differs or environment.file(name), "Take the file away, and run this again.")


def _found(part: str, described: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what is found for a part. What nobody thought of costs that part alone."""
    try:
        yield from DOMAINS[part](described, given)
    except Exception as error:
        yield Asked(part, f"the rest of it could not be looked for ({type(error).__name__}: {first_line(error)})")


def _bare(found: Line | Asked) -> Line | Asked:
    """Give what was found; a value with a secret in it does not get into a file."""
    if isinstance(found, Line) and environment_file.hides(environment_file.written(found.value)):
        return Asked(found.key, f"what was found holds a secret ({found.source}): give it without", "…")
    return found


def _fitting(lines: Mapping[str, Any]) -> dict[str, Any]:
    """Give the lines of what was given, those of a part each by itself. Raise BadParameter if one does not fit."""
    fitting: dict[str, Any] = {}
    for key, value in lines.items():
        need_fitting(str(key), value)
        field = environment_file.field_of(str(key))
        if field and environment_file.part_of(field) and isinstance(value, dict):
            fitting |= _fitting({f"{key}.{word}": inner for word, inner in value.items()})
        else:
            fitting[str(key)] = value
    for key in fitting:
        if within := [other for other in fitting if key.startswith(f"{other}.")]:
            raise BadParameter(f"given: {within[0]} and {key} cannot both be given: one is inside the other")
    return fitting


def _lines(found: Iterable[Line | Asked]) -> Iterator[Line]:
    return (one for one in found if isinstance(one, Line))


def _given(given: Mapping[str, Any]) -> Iterator[Line]:
    return (Line(key, value, GIVEN) for key, value in given.items())


def _environment(name: str, lines: Iterable[Line]) -> PropertyPulse:
    tree: dict[str, Any] = {"name": name}
    for one in lines:
        *parts, last = one.key.split(".")
        at = tree
        for part in parts:
            if at.get(part, ...) is None:  # a part that was given as not there
                break
            at = at.setdefault(part, {})
        else:
            at[last] = one.value
    while True:
        try:
            return PropertyPulse(**tree)
        except ValidationError as error:
            problems = error.errors()
        absent = [one["loc"] for one in problems if one["type"] == "missing" and len(one["loc"]) > 1]
        other = [one for one in problems if one["type"] != "missing" or len(one["loc"]) == 1]
        if other or not absent:
            if "api" not in tree:
                raise CheckFailed(
                    "no API was found, and without one nothing else is. What was asked for above says why."
                )
            if "secrets" not in tree:
                raise CheckFailed("the API's .env cannot be read, so its secrets could not be masked")
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in other)
            raise CheckFailed(f"give the right value of these lines in `given`: {wrong}")
        *parts, last, _ = map(str, absent[0])
        at = tree
        for part in parts:
            at = at[part]
        del at[last]


def _stands(whole: PropertyPulse, key: str) -> bool:
    at: Any = whole
    for word in key.split(".")[:-1]:
        at = getattr(at, word) if isinstance(at, BaseModel) else None
    return at is not None


def _unfinished(line: Line, lacks: Sequence[str]) -> str:
    """Say why a line does not count, though it is known."""
    part = line.key.split(".")[0]
    return f"{line.source}; it counts once {', '.join(key for key in lacks if key.startswith(f'{part}.'))} is there"
