"""The routes that the API's code registers with Express: where each is, and whether it asks who is there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opslib.api import javascript, release
from opslib.api.release import Line

_TEXT = r"""["'`]([^"'`$]*)["'`]"""
_GETS = re.compile(rf"\.\s*get\(\s*{_TEXT}")
_USES = re.compile(r"\.\s*use\(")
_LOADED = re.compile(rf"(?:require|import)\s*\(\s*{_TEXT}\s*\)")
_IMPORTED = re.compile(
    rf"(?:const|let|var)\s[^=;]*?(\w+)\s*\}}?\s*=\s*require\(\s*{_TEXT}|import\s[^;]*?(\w+)\s*\}}?\s*from\s*{_TEXT}"
)
_APP = re.compile(r"(?<![\w.])express\(\s*\)")
_NO_GUARD = re.compile(r"limit|initialize|session|require", re.IGNORECASE)
_GUARD = re.compile(
    r"auth|protect|passport|jwt|(?:verify|check|require|validate)\w*(?:token|user|login)", re.IGNORECASE
)
_DEPTH = 5  # routers inside routers


@dataclass(frozen=True)
class Route:
    """A GET route. `before` counts what each request passes through on the way to its router, a limit say."""

    path: str
    guarded: bool
    before: int
    line: Line


@dataclass(frozen=True)
class _Mounted:
    """A router, and where and how it is mounted."""

    file: Path
    path: str
    guarded: bool
    before: int


def gets(folder: Path) -> list[Route]:
    """Give the GET routes of the code below a folder, in the order in which the code mounts them."""
    texts = {file: javascript.read(file) for file in release.code(folder)}
    mounts = {file: list(_mounts(file, text, texts)) for file, text in texts.items()}
    found = list[Route]()
    for file, text in texts.items():
        if _APP.search(text):
            found += _found(_Mounted(file, "", False, 0), texts, mounts, _DEPTH)
    return list({route.path: route for route in reversed(found)}.values())[::-1]


def _found(at: _Mounted, texts: dict[Path, str], mounts: dict[Path, list[_Mounted]], depth: int) -> Iterator[Route]:
    text = texts[at.file]
    for get in _GETS.finditer(text):
        _, *handlers = javascript.given(text, text.index("(", get.start()))
        if not get[1].startswith("/") or not handlers:
            continue
        guarded = at.guarded or any(_guards(one) for one in handlers[:-1]) or _used(text[: get.start()])
        line = Line(at.file, javascript.line(text, get.start()))
        yield Route(_joined(at.path, get[1]), guarded, at.before, line)
    for one in mounts[at.file] if depth else ():
        mounted = _Mounted(one.file, _joined(at.path, one.path), at.guarded or one.guarded, at.before + one.before)
        yield from _found(mounted, texts, mounts, depth - 1)


def _mounts(file: Path, text: str, texts: dict[Path, str]) -> Iterator[_Mounted]:
    """Give the routers that a file mounts: `use("/path", limit, require("./router"))`."""
    names = {one[1] or one[3]: one[2] or one[4] for one in _IMPORTED.finditer(text)}
    for use in _USES.finditer(text):
        given = javascript.given(text, use.end() - 1)
        path = javascript.literal(given[0]) if given else None
        *before, router = given[1:] if isinstance(path, str) else given or [""]
        loaded = _LOADED.search(router)
        source = loaded[1] if loaded else names.get(router, "")
        if target := _target(file, source, texts):
            guarded = any(_guards(one) for one in before) or _used(text[: use.start()])
            yield _Mounted(target, path if isinstance(path, str) else "", guarded, len(before))


def _target(file: Path, source: str, texts: dict[Path, str]) -> Path | None:
    """Give the file of the code that is loaded by this name."""
    if not source.startswith("."):
        return None
    base = Path(file.parent, source).resolve()
    stem = base.with_suffix("") if base.suffix in release.CODE else base  # TypeScript loads x.ts as ./x.js
    tries = [base, *(Path(f"{stem}{suffix}") for suffix in release.CODE), *(base / f"index{s}" for s in release.CODE)]
    return next((one for one in tries if one in texts), None)


def _used(text: str) -> bool:
    """Whether all that follows this text in its file asks who is there: `router.use(authenticate)`."""
    uses = (javascript.given(text, use.end() - 1) for use in _USES.finditer(text))
    return any(len(given) == 1 and _guards(given[0]) for given in uses)


def _guards(handler: str) -> bool:
    """Whether a handler, as the code names it, is one that asks who is there."""
    named = re.fullmatch(r"([\w.]+)(?:\([^()]*\))?", handler)
    return bool(named and _GUARD.search(named[1]) and not _NO_GUARD.search(named[1]))


def _joined(path: str, more: str) -> str:
    return f"{path.rstrip('/')}/{more.strip('/')}".rstrip("/") or "/"
