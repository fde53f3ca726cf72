"""The API's code of Stripe: where its client asks, at which path it takes events, and which types it acts on."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import stripe

from opslib.api import release
from opslib.api.release import Line
from opslib.deployment.deployment import Deployment

TYPES = frozenset(get_args(stripe.Event.__annotations__["type"]))
"""The types of event that Stripe's library knows."""

_NO_PART_OF_IT = re.compile(
    r"(^|[/._-])(tests?|specs?|__tests__|__mocks__|mocks?|fixtures|seeds?|scripts)([/._-]|$)", re.I
)
_CHECKS = re.compile(r"\bconstructEvent(?:Async)?\s*\(")
_DECIDES = re.compile(rf"{_CHECKS.pattern}|\bevent\.type\b")
_TYPE = re.compile(r"""(\bcase\s+)?["'`]([a-z_0-9]+(?:\.[a-z_0-9]+)+)["'`]""")
_PATH = re.compile(r"""["'`](/[^"'`$]*)["'`]\s*,""")
_POST = re.compile(rf"(?:\b(?:app|server|fastify|\w*router)|\))\s*\.post\(\s*(?:{_PATH.pattern})?", re.I)
_GIVEN = r"((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)"
"""What stands between brackets, with two more inside each other."""
_USE = re.compile(rf"\.use\(\s*{_GIVEN}")
_CLIENT = re.compile(rf"\bnew Stripe\({_GIVEN}")
_HOST = re.compile(r"""\bhost\s*:\s*["'`]([^"'`]+)["'`]""")
_APP = re.compile(r"\bexpress\(\s*\)|\b[fF]astify\(")
_LOADED = re.compile(r"""(?:require\(|from\s|import\()\s*["'`](\.[^"'`]+)["'`]""")
_NAMED = re.compile(rf"(?:const|let|var|import)\s+(?:\*\s+as\s+)?(\w+)\s*=?\s*{_LOADED.pattern}")
_DEEPEST = 5


@dataclass(frozen=True)
class Route:
    """A path at which the code takes events of Stripe's, and where it checks their signature."""

    path: str
    at: Line


@dataclass(frozen=True)
class Code:
    """The code of the release in force, without its tests; of each file the text, without what is only a comment."""

    root: Path
    texts: Mapping[Path, str]

    def names(self, variable: str) -> bool:
        """Whether the code names this variable."""
        return any(re.search(rf"\b{re.escape(variable)}\b", text) for text in self.texts.values())

    def shown(self, line: Line) -> str:
        """Name a line as people do."""
        return f"{line.file.relative_to(self.root)}:{line.line}"

    @cached_property
    def hosts(self) -> dict[str, str]:
        """The hosts that the code itself names to its client of Stripe, each with the file that does."""
        given = [(file, one) for file, text in self.texts.items() for one in _CLIENT.findall(text)]
        return {host: file.name for file, one in given for host in _HOST.findall(one)}

    @cached_property
    def routes(self) -> list[Route]:
        """The paths at which signatures of Stripe's are checked, as an app or routers of Express have them.

        Left out is what cannot be read off: a path that is put together, a router of another kind.
        """
        found: dict[str, Route] = {}
        for checking, match in self._search(_CHECKS):
            for file, path in self._posts(checking):
                for before in self._mounts(file):
                    whole = (before + path).rstrip("/") or "/"
                    # What is loaded by a file is used by its other routes too.
                    words = ("hook", "stripe") if file == checking else ("hook",)
                    if any(word in whole.lower() for word in words):
                        found.setdefault(whole, Route(whole, self._line(checking, match)))
        return [found[path] for path in sorted(found)]

    @cached_property
    def handled(self) -> dict[str, Line]:
        """The types of event that the code tells from others, each with a line that does."""
        deciding = {file for file, _ in self._search(_DECIDES)}
        found: dict[str, Line] = {}
        for file, match in self._search(_TYPE):
            if match[2] in TYPES and match[2] not in found and (file in deciding or match[1]):
                found[match[2]] = self._line(file, match)
        return dict(sorted(found.items()))

    def _search(self, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
        return ((file, match) for file, text in self.texts.items() for match in pattern.finditer(text))

    def _line(self, file: Path, match: re.Match[str]) -> Line:
        return Line(file, self.texts[file].count("\n", 0, match.start()) + 1)

    def _posts(self, file: Path, deep: int = 0) -> list[tuple[Path, str]]:
        """Give the paths for which a file takes a POST of Stripe's; if it takes none, those of files that load it."""
        if paths := _POST.findall(self.texts[file]):
            return [(file, path) for path in _stripes(paths)]
        loading = [one for one, text in self.texts.items()
                   if one != file and any(_leads(one, to, file) for to in _LOADED.findall(text))]  # fmt: skip
        return [post for one in loading if deep < _DEEPEST for post in self._posts(one, deep + 1)]

    def _mounts(self, file: Path, deep: int = 0) -> list[str]:
        """Give what stands before the paths of a file's router: nothing where that has the app, none if not known."""
        found = [""] if _APP.search(self.texts[file]) else []
        for other, text in self.texts.items():
            for given in _USE.findall(text) if other != file and deep < _DEEPEST else ():
                path = _PATH.match(given)
                if self._hands_over(other, given, file) and (path or "," not in given):
                    here = path[1].rstrip("/") if path else ""
                    found += [before + here for before in self._mounts(other, deep + 1)]
        return found

    def _hands_over(self, file: Path, given: str, target: Path) -> bool:
        """Whether what a file gives to `use` is loaded from that other file, there or under a name."""
        if any(_leads(file, to, target) for to in _LOADED.findall(given)):
            return True
        loaded = {name for name, to in _NAMED.findall(self.texts[file]) if _leads(file, to, target)}
        return bool(loaded & {*re.findall(r"\w+", given)})


def read(environment: Deployment) -> Code:
    """Read the code once. Raise OSError."""
    root, lines = environment.api.release.resolve(), defaultdict[Path, dict[int, str]](dict)
    for line, match in release.search(root, ".+"):
        lines[line.file][line.line] = match[0]
    own = {file: held for file, held in lines.items() if not _NO_PART_OF_IT.search(file.relative_to(root).as_posix())}
    return Code(root, {file: "\n".join(held.get(n, "") for n in range(1, max(held) + 1)) for file, held in own.items()})


def _stripes(paths: list[str]) -> list[str]:
    """Give the one path that names Stripe; all of them if that is not one, none if one of them cannot be read off."""
    named = [path for path in paths if "stripe" in path.lower()]
    return named if len(named) == 1 else paths if all(paths) else []


def _leads(file: Path, to: str, target: Path) -> bool:
    """Whether what a file loads by this relative name is that other one."""
    named = Path(os.path.normpath(file.parent / to))
    if target.parent == named:
        return target.stem == "index"
    return target.parent == named.parent and named.name in (target.name, target.stem, f"{target.stem}.js")
