"""How the API signs an upload, as its code shows it: the route, what that wants and answers, how long a URL lives."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from opslib.api import javascript
from opslib.api.javascript import constant, inside
from opslib.api.release import Line
from opslib.api.route import Route, routes

_SIGNERS = "getSignedUrl|getSignedUrlPromise|createPresignedPost|presignedPutObject"
_SIGN = rf"(?:{_SIGNERS})\s*\("
_CALLS = rf"\b{_SIGN}"
FORM = "createPresignedPost"
"""Signs a form instead of a URL, and an upload with it is a POST, which no procedure of ours makes."""
FIREBASE = r"\bverifyIdToken\b"
TOKENS = ("accessToken", "access_token", "token", "idToken", "jwt")
_NAMED = re.compile(r"sign(?:ed)?-?url|presign", re.IGNORECASE)
_BODY = re.compile(r"\{([^{}]*)\}\s*=\s*\w+\.body\b|\b\w+\.body\??\.(\w+)")
_EXPIRES = re.compile(r"\b(?:expiresIn|Expires)\s*:\s*([^,}\n]+)")
_REFUSAL = re.compile(r"\b(?:status|sendStatus)\(\s*4(?:00|22)\b|\bthrow\b|\bnext\(")
_ELSEWHERE = re.compile(r"(?i)valid|schema|\bparse\(|\bbody\(")
_LOGIN = re.compile(r"/(?:log-?in|sign-?in)$", re.IGNORECASE)


@dataclass(frozen=True)
class Expires:
    """How many seconds a URL lives that is signed there; None where that cannot be read."""

    seconds: int | None
    line: Line


@dataclass(frozen=True)
class SigningCode:
    """The route that signs uploads."""

    route: Route

    @cached_property
    def _text(self) -> str:
        return javascript.read(self.route.line.file)

    @cached_property
    def wanted(self) -> dict[str, list[str]]:
        """The fields of the body without which it refuses, each with the values that the code allows, if it says so."""
        code, named = self.route.code, set[str]()
        for found in _BODY.finditer(code):
            named |= {found[2]} if found[2] else set(re.findall(r"(\w+)\s*(?=[:=,]|$)", found[1].strip()))
        allowed: dict[str, list[str]] = {}
        for found in re.finditer(r"\bif\s*\(", code):
            condition = inside(code, found.end() - 1)
            after = code[found.end() + len(condition) + 1 :].lstrip()
            refusal = inside(after, 0) if after.startswith("{") else after.partition(";")[0]
            if not _REFUSAL.search(refusal):
                continue
            for name in sorted(named & {*re.findall(r"\w+", condition)}, key=code.index):
                allowed.setdefault(name, [])
                for list_ in re.findall(rf"!\s*(\w+)(?:\.includes\(\s*{name}\s*\)|\[\s*{name}\s*\])", condition):
                    allowed[name] = _texts(constant(self._text, list_))
        return allowed

    @property
    def whole(self) -> bool:
        """Whether that is all it wants: whether nothing but the handler that stands there looks at the body."""
        code = self.route.code
        before = "".join(inside(self._text, used.end() - 1) for used in re.finditer(r"\.use\(", self._text))
        seen = len(re.findall(r"\.body\b", code + before))
        return seen == len(_BODY.findall(code)) > 0 and not _ELSEWHERE.search(code + before)

    @cached_property
    def answered(self) -> dict[str, str]:
        """The fields of the answer that have the signed URL (`url`) and the name of the object (`key`), where told."""
        code, found = self.route.code, dict[str, set[str]]()
        signed = {*re.findall(rf"\b(?:const|let|var)\s+(\w+)\s*=\s*(?:await\s+)?(?:\w+\.)*(?={_SIGN})", code)}
        object_ = {one[1].strip() for one in re.finditer(r"\bKey\s*:\s*([^,}\n]+)", code)}
        object_ |= {"Key"} if re.search(r"[{,]\s*Key\s*[,}]", code) else set()
        for path, of in _answers(code):
            if of in signed or re.search(_CALLS, of):
                found.setdefault("url", set()).add(path)
            elif object_ == {of}:
                found.setdefault("key", set()).add(path)
        return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def signing(folder: Path) -> list[Route]:
    """Give the routes that sign an upload, as far as the code says so."""
    found = [
        one
        for one in routes(folder, "post")
        if re.search(_CALLS, one.code) or _NAMED.search(one.path.rpartition("/")[2])
    ]
    puts = [one for one in found if re.search(r"(?i)put_?object|upload", one.code + one.path)]
    return puts if len(found) > 1 and puts else found


def lives(folder: Path) -> list[Expires]:
    """Give how long each URL lives that the code signs."""
    found = []
    for file, text in javascript.files(folder).items():
        if not text and re.search(_CALLS, file.read_text("utf-8", "replace")):  # a bundle
            found.append(Expires(None, Line(file, 1)))
        for at in javascript.calls(text, _SIGNERS):
            said = [one.strip() for one in _EXPIRES.findall(inside(text, at))]
            seconds = _whole(text, said[0]) if len(said) == 1 else None
            found.append(Expires(seconds, javascript.line(file, text, at)))
    return found


def logins(folder: Path) -> dict[Route, list[str]]:
    """Give the routes that take email and password for a token, each with the fields of its answer that may have it."""
    return {
        one: [path for path, _ in _answers(one.code) if path.rpartition(".")[2] in TOKENS]
        for one in routes(folder, "post")
        if _LOGIN.search(one.path) and "email" in one.code and "password" in one.code
    }


def _whole(text: str, written: str) -> int | None:
    """Give a whole number that is written there, or what the constant of this name is set to."""
    value = javascript.literal(constant(text, written) or written)
    return value if type(value) is int else None


def _answers(code: str) -> Iterator[tuple[str, str]]:
    """Give the fields of each object that a handler answers, and what they are set to."""
    for answer in re.finditer(r"\.(?:json|send)\(", code):
        yield from _fields(inside(code, answer.end() - 1).strip()).items()


def _fields(written: str) -> dict[str, str]:
    """Give the fields of an object, one inside another after a point."""
    found: dict[str, str] = {}
    for name, value in javascript.fields(written).items():
        found |= {f"{name}.{one}": of for one, of in _fields(value).items()} or {name: value}
    return {name: value for name, value in found.items() if re.fullmatch(r"[\w.]+", name)}


def _texts(written: str) -> list[str]:
    """Give the texts of an array, or the names that an object has; nothing where another thing is among them."""
    if written.startswith("{"):
        return [*javascript.fields(written)]
    values = [javascript.literal(one) for one in javascript.given(written, 0)] if written.startswith("[") else []
    texts = [one for one in values if isinstance(one, str)]
    return texts if len(texts) == len(values) else []
