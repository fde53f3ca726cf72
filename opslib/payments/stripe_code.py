"""The API's code of Stripe: where its client asks, at which path it takes events, and which types it acts on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import stripe

from opslib.api import release
from opslib.api.release import Line
from opslib.deployment.deployment import Deployment

TYPES = frozenset(get_args(stripe.Event.__annotations__["type"]))
"""Those that Stripe's library knows."""

_CHECKS = r"\bconstructEvent(?:Async)?\s*\("
_NO_PART_OF_IT = re.compile(
    r"(^|[/._-])(tests?|specs?|__tests__|__mocks__|mocks?|fixtures|seeds?|scripts)([/._-]|$)", re.I
)
_TYPE = r"""(\bcase\s+)?["'`]([a-z_0-9]+(?:\.[a-z_0-9]+)+)["'`]"""
_PATH = re.compile(r"""["'`](/[^"'`$]*)["'`]\s*,""")
_POST = re.compile(rf"(?:\b(?:app|server|fastify|\w*router)|\))\s*\.post\(\s*(?:{_PATH.pattern})?", re.I)
_GIVEN = r"((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)"
"""What stands between brackets, with two more inside each other."""
_USE = re.compile(rf"\.use\(\s*{_GIVEN}")
_CLIENT = re.compile(rf"\bnew Stripe\({_GIVEN}")
_HOST = re.compile(r"""\bhost\s*:\s*["'`]([^"'`]+)["'`]""")
_APP = re.compile(r"\bexpress\(\s*\)|\b[fF]astify\(")
_LOADED = r"""(?:require\(|from\s|import\()\s*["'`](\.[^"'`]+)["'`]"""
_NAMED = re.compile(rf"(?:const|let|var|import)\s+(?:\*\s+as\s+)?(\w+)\s*=?\s*{_LOADED}")
_DEEPEST = 5


@dataclass(frozen=True)
class Route:
    """A path at which the code takes events of Stripe's, and where it checks their signature."""

    path: str
    at: Line


def shown(environment: Deployment, line: Line) -> str:
    """Name a line of the code as people do."""
    return f"{line.file.relative_to(environment.api.release.resolve())}:{line.line}"


def hosts(environment: Deployment) -> dict[str, str]:
    """Give the hosts that the code itself names to its client of Stripe, each with the file that does."""
    files = sorted({line.file for line, _ in _search(environment, r"\bnew Stripe\(")})
    return {
        host: file.name for file in files for given in _CLIENT.findall(_text(file)) for host in _HOST.findall(given)
    }


def routes(environment: Deployment) -> list[Route]:
    """Give the paths at which signatures of Stripe's are checked, as an app or routers of Express have them.

    Left out is what cannot be read off: a path that is put together, a router of another kind.
    """
    found: dict[str, Route] = {}
    for line, _ in _search(environment, _CHECKS):
        for file, path in _posts(environment, line.file):
            for before in _mounts(environment, file):
                whole = (before + path).rstrip("/") or "/"
                # What is loaded by a file is used by its other routes too.
                words = ("hook", "stripe") if file == line.file else ("hook",)
                if any(word in whole.lower() for word in words):
                    found.setdefault(whole, Route(whole, line))
    return [found[path] for path in sorted(found)]


def handled(environment: Deployment) -> dict[str, Line]:
    """Give the types of event that the code tells from others, each with a line that does."""
    deciding = {line.file for line, _ in _search(environment, rf"{_CHECKS}|\bevent\.type\b")}
    found: dict[str, Line] = {}
    for line, match in _search(environment, _TYPE):
        if match[2] in TYPES and (line.file in deciding or match[1]):
            found.setdefault(match[2], line)
    return dict(sorted(found.items()))


def _search(environment: Deployment, pattern: str) -> Iterator[tuple[Line, re.Match[str]]]:
    root = environment.api.release.resolve()
    for line, match in release.search(root, pattern):
        if not _NO_PART_OF_IT.search(line.file.relative_to(root).as_posix()):
            yield line, match


def _posts(environment: Deployment, file: Path, deep: int = 0) -> list[tuple[Path, str]]:
    """Give the paths for which a file takes a POST of Stripe's; of one that takes none, those of files that load it."""
    if _POST.search(_text(file)):
        return [(file, path) for path in _stripes(file)]
    if deep == _DEEPEST:
        return []
    loading = {line.file for line, match in _search(environment, _LOADED) if _leads(line.file, match[1], file)}
    return [post for one in sorted(loading - {file}) for post in _posts(environment, one, deep + 1)]


def _stripes(file: Path) -> list[str]:
    """Give the one path that names Stripe; all of them if that is not one, none if one of them cannot be read off."""
    paths = _POST.findall(_text(file))
    named = [path for path in paths if "stripe" in path.lower()]
    return named if len(named) == 1 else paths if all(paths) else []


def _mounts(environment: Deployment, file: Path, deep: int = 0) -> list[str]:
    """Give what stands before the paths of a file's router: nothing where the file has the app, none if not known."""
    found = [""] if _APP.search(_text(file)) else []
    for other in sorted({line.file for line, _ in _search(environment, r"\.use\(")} - {file}):
        for given in _USE.findall(_text(other)) if deep < _DEEPEST else ():
            path = _PATH.match(given)
            if _hands_over(other, given, file) and (path or "," not in given):
                here = path[1].rstrip("/") if path else ""
                found += [before + here for before in _mounts(environment, other, deep + 1)]
    return found


def _hands_over(file: Path, given: str, target: Path) -> bool:
    """Whether what a file gives to `use` is loaded from that other file, there or under a name."""
    if any(_leads(file, to, target) for to in re.findall(_LOADED, given)):
        return True
    loaded = {name for name, to in _NAMED.findall(_text(file)) if _leads(file, to, target)}
    return bool(loaded & {*re.findall(r"\w+", given)})


def _leads(file: Path, to: str, target: Path) -> bool:
    """Whether what a file loads by this relative name is that other one."""
    named = (file.parent / to).resolve()
    if target.parent == named:
        return target.stem == "index"
    return target.parent == named.parent and named.name in (target.name, target.stem, f"{target.stem}.js")


def _text(file: Path) -> str:
    lines = file.read_text("utf-8", "replace").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(release.COMMENT))
