"""A route of the API's as its code has it: Express's routers, and where they are mounted, as far as that is certain."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from opslib.api import release
from opslib.api.javascript4 import enclosed, parts

_EXPRESS = r"""(?:require\(\s*|from\s+)["']express["']"""
_ROUTE = re.compile(r"""\.(get|post|put|patch|delete)\(\s*(["'`])(/[^"'`]*)\2""")
_USE = re.compile(r"\.use\(")
_BOUND = re.compile(
    r"""(?:const|let|var)\s+(\w+)\s*=\s*require\(\s*["'](\.[^"']*)["']\s*\)|import\s+(\w+)\s+from\s+["'](\.[^"']*)["']"""
)
_REQUIRED = re.compile(r"""require\(\s*["'](\.[^"']*)["']\s*\)""")
_TESTS = re.compile(r"(?:^|/)(?:tests?|__tests__|specs?)/|\.(?:test|spec)\.\w+$")


@dataclass(frozen=True)
class Route:
    """A method and a whole path, with the code that answers there."""

    method: str
    path: str
    file: Path
    line: int
    code: str = field(repr=False)
    """What the call is given that makes the route: its handlers, if they stand there."""

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} ({self.file.name}:{self.line})"


def routes(folder: Path) -> list[Route]:
    """Give the routes of the code below this folder whose whole path it says."""
    files = dict.fromkeys(line.file for line, _ in release.search(folder, _EXPRESS))
    texts = {file: _text(file) for file in files if not _TESTS.search(str(file.relative_to(folder.resolve())))}
    mounted: dict[Path, list[tuple[Path, str]]] = {}
    for file, text in texts.items():
        for target, prefix in _mounts(file, text):
            mounted.setdefault(target, []).append((file, prefix))

    @cache
    def prefixes(file: Path, below: tuple[Path, ...] = ()) -> tuple[str, ...]:
        places = [
            above + prefix
            for parent, prefix in mounted.get(file, ())
            if parent not in below
            for above in prefixes(parent, (*below, file))
        ]
        root = [""] if re.search(r"\bexpress\(\)", texts.get(file, "")) else []
        return tuple(dict.fromkeys(places or root))

    return [
        Route(found[1], (prefix + found[3]).rstrip("/") or "/", file, text.count("\n", 0, found.start()) + 1, code)
        for file, text in texts.items()
        for found in _ROUTE.finditer(text)
        for code in [enclosed(text, text.index("(", found.start()))]
        for prefix in prefixes(file)
    ]


def _text(file: Path) -> str:
    """Give the text of a file, its lines that are only a comment empty."""
    lines = file.read_text("utf-8", "replace").splitlines()
    return "\n".join("" if line.lstrip().startswith(release.COMMENT) else line for line in lines)


def _mounts(file: Path, text: str) -> Iterator[tuple[Path, str]]:
    """Give the files whose routers this one mounts, with the path where."""
    bound = {one[1] or one[3]: one[2] or one[4] for one in _BOUND.finditer(text)}
    for used in _USE.finditer(text):
        given = parts(enclosed(text, used.end() - 1))
        prefix = given[0][1:-1].rstrip("/") if given and given[0][:1] in ("'", '"', "`") else ""
        for one in given:
            required = _REQUIRED.fullmatch(one)
            if (name := required[1] if required else bound.get(one)) and (target := _file(file.parent / name)):
                yield target, prefix


def _file(named: Path) -> Path | None:
    """Give the file that Node would load for such a name."""
    named = Path(os.path.normpath(named))
    beside = [named.with_name(named.name + ending) for ending in release.CODE]
    # TypeScript's imports name the file that is made of it.
    source = [named.with_suffix(".ts")] if named.suffix == ".js" else []
    return next(
        (one for one in (named, *beside, *source, *(named / f"index{e}" for e in release.CODE)) if one.is_file()), None
    )
