"""The routes that the API's code registers with Express: where each is, what answers, whether it asks who is there.

What cannot be read off is left out: a path that is put together, a router that nobody mounts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opslib.api import javascript
from opslib.api.release import Line

_TEXT = r"""["'`]([^"'`$]*)["'`]"""
_USES = re.compile(r"\.\s*use\(")
LOADS = re.compile(rf"(?:(?:require|import)\s*\(|\bfrom\b)\s*{_TEXT}")
_NAMED = re.compile(
    rf"(?:const|let|var|import)\s([^=;()\"'`]+?)(?:=\s*(?:await\s+)?(?:require|import)\s*\(|\bfrom\b)\s*{_TEXT}"
)
_APP = re.compile(r"(?<![\w.])(?:express\(\s*\)|[fF]astify\()")
_CLIENT = re.compile(r"\b(?:axios|got|https?|request|\w*client)\s*$", re.IGNORECASE)  # asks others by such calls
_NO_GUARD = re.compile(r"limit|initialize|session|require", re.IGNORECASE)
_GUARD = re.compile(
    r"auth|protect|passport|jwt|(?:verify|check|require|validate)\w*(?:token|user|login)", re.IGNORECASE
)
_DEPTH = 5  # routers inside routers
_NEAR = 40  # characters before a call in which its object's name ends


@dataclass(frozen=True)
class Route:
    """A method and a whole path. `before` counts what each request passes on the way to its router, a limit say."""

    method: str
    path: str
    guarded: bool
    before: int
    line: Line
    code: str = field(repr=False)
    """What the call is given that registers it: its own path, and its handlers if they stand there."""

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} ({self.line})"


@dataclass(frozen=True)
class _Mounted:
    """A router, and where and how it is mounted."""

    file: Path
    path: str
    guarded: bool
    before: int


def routes(folder: Path, method: str) -> list[Route]:
    """Give the routes of one method in the code below a folder, in the order in which the code mounts them."""
    texts = javascript.files(folder)
    mounts = {file: list(_mounts(file, text, texts)) for file, text in texts.items()}
    mounted = {one.file for below in mounts.values() for one in below}
    apps = [file for file, text in texts.items() if _APP.search(text)]
    top = [file for file in apps if file not in mounted] or apps
    found = (one for app in top for one in _found(_Mounted(app, "", False, 0), method, texts, mounts, _DEPTH))
    return list({(one.path, one.line): one for one in found}.values())


def _found(
    at: _Mounted, method: str, texts: Mapping[Path, str], mounts: Mapping[Path, list[_Mounted]], depth: int
) -> Iterator[Route]:
    text = texts[at.file]
    for call in re.finditer(rf"\.\s*{method}\(\s*{_TEXT}", text):
        begin = text.index("(", call.start())
        _, *handlers = javascript.given(text, begin)
        asks = _CLIENT.search(text, max(0, call.start() - _NEAR), call.start())
        if asks or not handlers or not call[1].startswith("/"):
            continue
        guarded = at.guarded or any(_guards(one) for one in handlers[:-1]) or _used(text[:begin])
        line = javascript.line(at.file, text, begin)
        yield Route(method, _joined(at.path, call[1]), guarded, at.before, line, javascript.inside(text, begin))
    for one in mounts[at.file] if depth else ():
        mounted = _Mounted(one.file, _joined(at.path, one.path), at.guarded or one.guarded, at.before + one.before)
        yield from _found(mounted, method, texts, mounts, depth - 1)


def _mounts(file: Path, text: str, texts: Mapping[Path, str]) -> Iterator[_Mounted]:
    """Give the routers that a file mounts: `use("/path", limit, require("./router"))`."""
    named = {word: one[2] for one in _NAMED.finditer(text) for word in re.findall(r"\w+", one[1])}
    for use in _USES.finditer(text):
        first, *handlers = javascript.given(text, use.end() - 1) or [""]
        path = javascript.literal(first)
        if not isinstance(path, str):
            path, handlers = "", [] if handlers else [first]  # before others it may be a path that is put together
        for before, handler in enumerate(handlers):
            words = [] if "=>" in handler else re.findall(r"\w+", handler)
            guarded = any(_guards(one) for one in handlers[:before]) or _used(text[: use.start()])
            for name in (*LOADS.findall(handler), *(named[word] for word in words if word in named)):
                if router := javascript.loaded(name, file, texts):
                    yield _Mounted(router, path, guarded, before)


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
