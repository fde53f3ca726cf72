"""The API's code of Stripe: where its client asks, at which path it takes events, and which types it acts on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import stripe

from opslib.api import javascript, route
from opslib.api.release import Line
from opslib.api.route import Route

TYPES = frozenset(get_args(stripe.Event.__annotations__["type"]))
"""The types of event that Stripe's library knows."""

_NO_PART_OF_IT = re.compile(
    r"(^|[/._-])(tests?|specs?|__tests__|__mocks__|mocks?|fixtures|seeds?|scripts)([/._-]|$)", re.I
)
_CHECKS = re.compile(r"\bconstructEvent(?:Async)?\s*\(")
_DECIDES = re.compile(rf"{_CHECKS.pattern}|\bevent\.type\b")
_TYPE = re.compile(r"""(\bcase\s+)?["'`]([a-z_0-9]+(?:\.[a-z_0-9]+)+)["'`]""")
_POST = re.compile(r"(?:\b(?:app|server|fastify|\w*router)|\))\s*\.\s*post\(", re.I)
_HOST = re.compile(r"""\bhost\s*:\s*["'`]([^"'`]+)["'`]""")
_DEEPEST = 5


@dataclass(frozen=True)
class Code:
    """The code of the release in force, without its tests and comments, and the routes that take a POST there."""

    texts: Mapping[Path, str]
    posts: list[Route]

    @cached_property
    def hosts(self) -> dict[str, str]:
        """The hosts that the code itself names to its client of Stripe, each with the file that does."""
        given = [(file, javascript.inside(text, at)) for file, text in self.texts.items()
                 for at in javascript.calls(text, r"new\s+Stripe")]  # fmt: skip
        return {host: file.name for file, one in given for host in _HOST.findall(one)}

    @cached_property
    def paths(self) -> dict[str, Line]:
        """The paths at which signatures of Stripe's are checked, each with a line that does; none if not known."""
        found: dict[str, Line] = {}
        for checks, _ in self._search(_CHECKS):
            for post in self._taking(checks.file):
                # What is loaded by a file is used by its other routes too.
                words = ("hook", "stripe") if post.line.file == checks.file else ("hook",)
                if any(word in post.path.lower() for word in words):
                    found.setdefault(post.path, checks)
        return dict(sorted(found.items()))

    @cached_property
    def handled(self) -> dict[str, Line]:
        """The types of event that the code tells from others, each with a line that does."""
        deciding = {line.file for line, _ in self._search(_DECIDES)}
        found: dict[str, Line] = {}
        for line, match in self._search(_TYPE):
            if match[2] in TYPES and (line.file in deciding or match[1]):
                found.setdefault(match[2], line)
        return dict(sorted(found.items()))

    def _search(self, pattern: re.Pattern[str]) -> Iterator[tuple[Line, re.Match[str]]]:
        for file, text in self.texts.items():
            for match in pattern.finditer(text):
                yield javascript.line(file, text, match.start()), match

    def _taking(self, file: Path, deep: int = 0) -> list[Route]:
        """Give the routes by which a file takes a POST of Stripe's; if it takes none, those of files that load it."""
        if written := len(_POST.findall(self.texts[file])):
            own = [post for post in self.posts if post.line.file == file]
            # Its own path stands first in what it is given, whatever it is mounted below.
            named = {post.line for post in own if "stripe" in post.code.partition(",")[0].lower()}
            if len(named) == 1:
                return [post for post in own if post.line in named]
            return own if len({post.line for post in own}) == written else []
        loading = [one for one, text in self.texts.items() if one != file and file in
                   (javascript.loaded(name, one, self.texts) for name in route.LOADS.findall(text))]  # fmt: skip
        return [post for one in loading if deep < _DEEPEST for post in self._taking(one, deep + 1)]


def read(folder: Path) -> Code:
    """Read the code of a release once. Raise OSError."""
    root = folder.resolve()
    own = {file: text for file, text in javascript.files(root).items()
           if not _NO_PART_OF_IT.search(file.relative_to(root).as_posix())}  # fmt: skip
    return Code(own, route.routes(root, "post"))
