"""Companions: the other variables of the `.env` that have the API's login, such as Prisma's DIRECT_URL.

A password is of a role, and a role is of a whole server: what the API's URL gets, each of these must get, or it is
locked out. One is rewritten where it is the URL of a database; where the password stands in any other form, it is
named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from opslib.database import admin, database_url, postgres
from opslib.database.database_url import UrlError
from opslib.database.postgres import LoginFailed
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.mask import mask

SHORTEST = 8
"""A password of fewer characters may stand in a value by chance."""


@dataclass(frozen=True)
class Companion:
    """A variable of the `.env`, the role that it logs in with, and why its URL cannot be rewritten; empty if it can."""

    variable: str
    role: str
    stands: str = ""


def found(environment: Deployment, urls: Sequence[str], *, role: str = "") -> list[Companion]:
    """Give those that have the login of one of these URLs, or log in as this role with a password of their own."""
    known = {url: database_url.parameters(url) for url in urls if url}
    values = sorted(env_file.read(environment.api.env_file).items())
    return [Companion(key, *said) for key, value in values if key != admin.KEY for said in _has(value, known, role)]


def with_login(environment: Deployment, variable: str, url: str) -> str:
    """Give the URL that a variable has, with the login of this one."""
    login, held = database_url.parameters(url), env_file.read(environment.api.env_file)
    made = database_url.with_login(held[variable], login["user"], login["password"])
    mask.add(variable, made)
    return made


def _has(value: str, known: Mapping[str, Mapping[str, str]], role: str) -> Iterator[tuple[str, str]]:
    try:
        given = database_url.parameters(value)
    except UrlError:
        for one in known.values():
            written = {one["password"], quote(one["password"], safe="")}
            if len(one["password"]) >= SHORTEST and any(text in value for text in written):
                yield one["user"], "it holds the password, and is no URL that can be rewritten"
                return
        return
    same = any((one["user"], one["password"]) == (given["user"], given["password"]) for one in known.values())
    here = any((one["host"], one["port"]) == (given["host"], given["port"]) for one in known.values())
    if same and (here or not _elsewhere(value, known)):
        yield given["user"], ""
    elif here and given["user"] == role:
        yield given["user"], "it has another password for this role"


def _elsewhere(value: str, known: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a login is proven to be one of another server: the address may be another, as past a pooler."""
    there, ours = _started(value), {_started(url) for url in known} - {None}
    return there is not None and bool(ours) and there not in ours


def _started(url: str) -> object:
    try:
        with postgres.connect(url) as connection:
            return postgres.server(connection)[0]
    except LoginFailed:
        return None
