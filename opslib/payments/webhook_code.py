"""The API's code of Stripe's webhook: the path at which it takes events, and the types that it acts on."""

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
_QUOTED = r"""["'`]([a-z_0-9]+(?:\.[a-z_0-9]+)+)["'`]"""
_POST = re.compile(r"""\.post\(\s*["'`](/[^"'`]*)["'`]""")
_USE = r"""\.use\(\s*(?:["'`](/[^"'`]*)["'`]\s*,)?(.*)"""
_NAMED = re.compile(
    r"""(?:const|let|var|import)\s+(?:\*\s+as\s+)?(\w+)\s*(?:=\s*require\(|from\s)\s*["'`](\.[^"'`]+)["'`]"""
)
_LOADED = re.compile(r"""(?:require\(|from\s|import\()\s*["'`](\.[^"'`]+)["'`]""")
_DEEPEST = 5


@dataclass(frozen=True)
class Route:
    """A path at which the code takes events of Stripe's, and where it checks their signature."""

    path: str
    at: Line


def shown(environment: Deployment, line: Line) -> str:
    """Name a line of the code as people do."""
    return f"{line.file.relative_to(environment.api.release.resolve())}:{line.line}"


def routes(environment: Deployment) -> list[Route]:
    """Give the paths at which signatures of Stripe's are checked, as an app or routers of Express have them."""
    found: dict[str, Route] = {}
    for line, _ in _search(environment, _CHECKS):
        for file, path in _posts(environment, line.file):
            for before in _mounts(environment, file):
                whole = (before + path).rstrip("/") or "/"
                found.setdefault(whole, Route(whole, line))
    return [found[path] for path in sorted(found)]


def handled(environment: Deployment) -> dict[str, Line]:
    """Give the types of event that the code tells from others, each with a line that does."""
    deciding = {line.file for line, _ in _search(environment, rf"{_CHECKS}|\bevent\.type\b")}
    found: dict[str, Line] = {}
    for line, match in _search(environment, rf"(\bcase\s+)?{_QUOTED}"):
        if match[2] in TYPES and (line.file in deciding or match[1]):
            found.setdefault(match[2], line)
    return dict(sorted(found.items()))


def _search(environment: Deployment, pattern: str) -> Iterator[tuple[Line, re.Match[str]]]:
    root = environment.api.release.resolve()
    for line, match in release.search(root, pattern):
        if not _NO_PART_OF_IT.search(line.file.relative_to(root).as_posix()):
            yield line, match


def _posts(environment: Deployment, file: Path) -> list[tuple[Path, str]]:
    """Give the paths for which a file takes a POST of Stripe's; of one with none, those of the files that load it."""
    if paths := _POST.findall(file.read_text("utf-8", "replace")):
        return [(file, path) for path in _stripes(paths)]
    loading = {line.file for line, match in _search(environment, _LOADED.pattern) if _leads(line.file, match[1], file)}
    found = [(one, _stripes(_POST.findall(one.read_text("utf-8", "replace")))) for one in sorted(loading)]
    return [(one, path) for one, paths in found for path in paths]


def _stripes(paths: list[str]) -> list[str]:
    """Give the one of several that names Stripe; all of them, if that is not one."""
    named = [path for path in paths if "stripe" in path.lower()]
    return named if len(named) == 1 else paths


def _mounts(environment: Deployment, file: Path, deep: int = 0) -> list[str]:
    """Give what stands before the paths of a file's router; nothing where that is an app."""
    found = []
    for line, match in _search(environment, _USE):
        names = {name for name, to in _NAMED.findall(line.file.read_text("utf-8", "replace"))
                 if _leads(line.file, to, file)}  # fmt: skip
        here = any(_leads(line.file, to, file) for to in _LOADED.findall(match[2]))
        if (here or names & {*re.findall(r"\w+", match[2])}) and deep < _DEEPEST and line.file != file:
            found += [before + (match[1] or "").rstrip("/") for before in _mounts(environment, line.file, deep + 1)]
    return found or [""]


def _leads(file: Path, to: str, target: Path) -> bool:
    """Whether what a file loads by this relative name is that other one."""
    named = (file.parent / to).resolve()
    return target in (named, named / "index.js", named / "index.ts") or (
        target.parent == named.parent and target.stem == named.name.removesuffix(target.suffix)
    )
