"""What the API's code tells an environment's file: how it is tried beside the API, and what its tokens are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opslib.api import health, job, release, signing
from opslib.api.route import Route
from opslib.api.settings import Tokens
from opslib.api.signing import Signing
from opslib.deployment.line import Asked, Line

HEALTHS = ("/health", "/healthz", "/api/health", "/api/v1/health", "/status", "/ping")
"""Usual paths of a health check."""
ASKED = 3
"""Routes that are asked at most, as the API may count requests."""
CLOCKS = 300
"""Seconds that clocks may differ."""
FIREBASE = 3600
"""Seconds for which an ID token of Firebase's is valid, as its documentation says."""
KEY = "JWT_SECRET"

_PORT = r"""process\.env\.((?:\w+_)?PORT(?:_\w+)?)\b(?:\s*(?:\|\||\?\?)\s*["'`]?(\d+))?"""
_TAKEN = r"""\{([^{}]*\b(?:\w+_)?PORT\b[^{}]*)\}\s*=\s*process\.env\b"""
_FIREBASE = r"verifyIdToken|securetoken"


@dataclass(frozen=True)
class Port:
    """A variable that the code reads a port from, and the port that it then has; empty if none is set."""

    variable: str
    value: str
    line: release.Line


def ports(folder: Path, variables: Mapping[str, str]) -> list[Port]:
    """Give the variables that the code below a folder reads a port from."""
    found = [(one[1], one[2], line) for line, one in release.search(folder, _PORT)]
    for line, one in release.search(folder, _TAKEN):
        taken = re.findall(r"\b((?:\w+_)?PORT)\b\s*(?::\s*\w+)?(?:\s*=\s*[\"'`]?(\d+))?", one[1])
        found += [(name, default, line) for name, default in taken]
    by_name = {name: Port(name, variables.get(name) or default or "", line) for name, default, line in reversed(found)}
    return list(by_name.values())


def found_health(url: str, routes: Sequence[Route], pids: Sequence[int], top: Path) -> Line | Asked:
    """Find a path that answers 200 while the API is well, or else one that its code registers."""
    code = [
        one for one in routes if re.search(r"/health\w*$|/healthz?/(?:live|ready)\w*$", one.path) and not one.guarded
    ]
    code.sort(key=lambda one: len(one.path))
    # Where the code has one that is not well now, another that answers would be the wrong one.
    for path in ([one.path for one in code] or HEALTHS) if url else ():
        got = health.ask(url + path, pids)
        if got.well and "html" not in got.headers.get("content-type", ""):  # a page for the browser answers any path
            return Line("api.health", path, f"GET {path} answers 200")
        if got.status == 0:
            break
    if code:
        said = f"the code registers it ({code[0].line.within(top)}); it does not answer 200 now"
        return Line("api.health", code[0].path, said)
    return Asked("api.health", "the path that answers 200 while the API is well: none that is usual does", "/health")


def found_trial(
    folder: Path, top: Path, known: Sequence[Port], url: str, given: Mapping[str, Any]
) -> Iterator[Line | Asked]:
    """Find how the code is started beside the API: the variable of its port, and what turns its jobs off.

    Without what turns them off nothing else is given either, as a trial would run them twice.
    """
    jobs = job.all_of(folder)
    open_ones = [one.line.within(top) for one in jobs if one.switch is None]
    switches = {one.switch.variable: one.switch for one in jobs if one.switch}
    values = {one.variable: one.off for one in switches.values()}
    if "api.trial.variables" not in given:
        if open_ones:
            shown = f" {values} turns others off." if values else ""
            what = (
                f"what turns off the jobs that begin at {', '.join(open_ones)}, so that a trial does not run them too."
            )
            yield Asked("api.trial.variables", f"{what}{shown} Without it the code is not tried before a restart")
            return
        if values:
            where = ", ".join(f"{one.variable}={one.off} ({one.line.within(top)})" for one in switches.values())
            yield Line("api.trial.variables", values, f"the code begins none of its jobs with {where}")
    listens = [port for port in known if port.value and url.endswith(f":{port.value}")]
    if len(listens) == 1:
        said = f"the code listens on process.env.{listens[0].variable} ({listens[0].line.within(top)})"
        yield Line("api.trial.port", listens[0].variable, said)
    else:
        names = (
            ", ".join(port.variable for port in listens) or "no variable of the code has the port that it listens on"
        )
        yield Asked("api.trial.port", f"the variable that says on which port the API listens: {names}")


def found_tokens(folder: Path, top: Path, variables: Mapping[str, str]) -> Iterator[Line | Asked]:
    """Find what the tokens hold that the code signs, by which algorithm, and how long the longest-lived is valid."""
    signs = signing.all_of(folder, variables)
    sure = [one for one in signs if one.by_secret]  # an API may sign others too, for Apple say
    places = sure or [replace(one, claims={}, lives=(), algorithms=()) for one in signs]
    named = next((line for line, _ in release.search(folder, rf"\b{KEY}\b")), None)
    unread = "" if named else f"; nothing in the code reads {KEY}"
    firebase = next((line for line, _ in release.search(folder, _FIREBASE)), None)
    yield _claims(places, top, unread)
    yield from _algorithm(places, top)
    yield _longest(places, top, firebase, unread)


def _claims(places: Sequence[Signing], top: Path, unread: str) -> Line | Asked:
    where = ", ".join(one.line.within(top) for one in places)
    fixed = [one.fixed for one in places]
    if len(fixed) == 1 and fixed[0]:
        return Line("tokens.claims", fixed[0], f"the code signs these ({where})")
    what = "what a token must hold for `tokens.route` to accept it"
    if not places:
        return Asked("tokens.claims", f"{what}: the code signs none itself{unread}", '{sub: "0"}')
    names = list(dict.fromkeys(name for one in places for name in one.claims)) or ["sub"]
    example = ", ".join(f'{name}: "0"' if name == "sub" else f"{name}: …" for name in names)
    return Asked("tokens.claims", f"{what}: the code signs {', '.join(names)} ({where}){unread}", f"{{{example}}}")


def _algorithm(places: Sequence[Signing], top: Path) -> Iterator[Line | Asked]:
    found = {name for one in places for name in one.algorithms}
    if len(found) == 1 and all(one.algorithms for one in places) and found <= {"HS256", "HS384", "HS512"}:
        where = ", ".join(one.line.within(top) for one in places)
        yield Line("tokens.algorithm", found.pop(), f"the code signs with it ({where})")
    elif places:
        names = ", ".join(sorted(found)) or "the code does not show it"
        default = Tokens.model_fields["algorithm"].default
        yield Asked("tokens.algorithm", f"the algorithm that signs a token ({names}); {default} if nothing is said")


def _longest(places: Sequence[Signing], top: Path, firebase: release.Line | None, unread: str) -> Line | Asked:
    lives = [life for one in places for life in one.lives]
    where = ", ".join(one.line.within(top) for one in places)
    ends = [life for life in lives if life is not None]
    if places and all(one.lives for one in places) and len(ends) == len(lives):
        longest = max(ends)
        said = f"the longest expiresIn of the code is {longest:g} s ({where}), and {CLOCKS} s for clocks{unread}"
        return Line("tokens.longest", _whole(longest + CLOCKS), said)
    if not places and firebase:
        said = (
            f"Firebase's ID tokens, which the code checks ({firebase.within(top)}), live an hour; {CLOCKS} s for clocks"
        )
        return Line("tokens.longest", FIREBASE + CLOCKS, f"{said}{unread}")
    what = "for how many seconds the longest-lived token is valid, a few minutes for clocks included"
    why = "the code signs some that never run out" if None in lives else "the code does not show it"
    return Asked("tokens.longest", f"{what}: {why}{f' ({where})' if where else ''}{unread}", "3900")


def _whole(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


def found_route(url: str, routes: Sequence[Route], top: Path) -> Line | Asked:
    """Find a GET route that asks who is there: one that the code guards, and that answers 401 without a token."""
    guarded = [one for one in routes if one.guarded and ":" not in one.path and "*" not in one.path]
    # Signing in is counted most strictly, and what has a handler of its own before it may be.
    guarded.sort(key=lambda one: (bool(re.search(r"/auth\b|/log(?:in|out)\b", one.path)), one.before))
    what = "a route that only reads and asks for a token"
    if not guarded or not url:
        why = "the code shows none" if not guarded else f"nobody could ask {guarded[0].path}: the API does not answer"
        return Asked("tokens.route", f"{what}: {why}", guarded[0].path if guarded else "/api/properties")
    said = []
    for one in guarded[:ASKED]:
        got = health.ask(url + one.path)
        if got.status == 401:
            how = f"GET {one.path} answers 401 without a token, and the code guards it ({one.line.within(top)})"
            return Line("tokens.route", one.path, how)
        said.append(f"GET {one.path} got {'no answer in time' if got.late else got.problem or got.status}")
    return Asked("tokens.route", f"{what}: {'; '.join(said)}", guarded[0].path)
