"""How the API signs an upload, as its code shows it: the route, what that wants and answers, how long a URL lives."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from opslib.api import release
from opslib.api.javascript4 import constant, enclosed, fields, number, parts, texts
from opslib.api.route4 import Route, routes

_SIGN = r"(?:getSignedUrl|getSignedUrlPromise|createPresignedPost|presignedPutObject)\s*\("
CALLS = rf"\b{_SIGN}"
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
    place: str


@dataclass(frozen=True)
class SigningCode:
    """The route that signs uploads."""

    route: Route

    @cached_property
    def _text(self) -> str:
        return self.route.file.read_text("utf-8", "replace")

    @cached_property
    def wanted(self) -> dict[str, list[str]]:
        """The fields of the body without which it refuses, each with the values that the code allows, if it says so."""
        code, named = self.route.code, set[str]()
        for found in _BODY.finditer(code):
            named |= {found[2]} if found[2] else set(re.findall(r"(\w+)\s*(?=[:=,]|$)", found[1].strip()))
        allowed: dict[str, list[str]] = {}
        for found in re.finditer(r"\bif\s*\(", code):
            condition = enclosed(code, found.end() - 1)
            after = code[found.end() + len(condition) + 1 :].lstrip()
            refusal = enclosed(after, 0) if after.startswith("{") else after.partition(";")[0]
            if not _REFUSAL.search(refusal):
                continue
            for name in sorted(named & {*re.findall(r"\w+", condition)}, key=code.index):
                allowed.setdefault(name, [])
                for list_ in re.findall(rf"!\s*(\w+)(?:\.includes\(\s*{name}\s*\)|\[\s*{name}\s*\])", condition):
                    allowed[name] = texts(constant(self._text, list_))
        return allowed

    @property
    def whole(self) -> bool:
        """Whether that is all it wants: whether nothing but the handler that stands there looks at the body."""
        code = self.route.code
        before = "".join(enclosed(self._text, used.end() - 1) for used in re.finditer(r"\.use\(", self._text))
        seen = len(re.findall(r"\.body\b", code + before))
        return seen == len(_BODY.findall(code)) > 0 and not _ELSEWHERE.search(code + before)

    @cached_property
    def answered(self) -> dict[str, str]:
        """The fields of the answer that have the signed URL (`url`) and the name of the object (`key`), where told."""
        code, found = self.route.code, dict[str, set[str]]()
        signed = {*re.findall(rf"\b(?:const|let|var)\s+(\w+)\s*=\s*(?:await\s+)?(?:\w+\.)*(?={_SIGN})", code)}
        object_ = {one[1].strip() for one in re.finditer(r"\bKey\s*:\s*([^,}\n]+)", code)}
        object_ |= {"Key"} if re.search(r"[{,]\s*Key\s*[,}]", code) else set()
        for answer in re.finditer(r"\.(?:json|send)\(", code):
            for path, of in fields(enclosed(code, answer.end() - 1).strip()).items():
                if of in signed or re.search(CALLS, of):
                    found.setdefault("url", set()).add(path)
                elif object_ == {of}:
                    found.setdefault("key", set()).add(path)
        return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def signing(folder: Path) -> list[Route]:
    """Give the routes that sign an upload, as far as the code says so."""
    found = [
        one
        for one in routes(folder)
        if one.method == "post" and (re.search(CALLS, one.code) or _NAMED.search(one.path.rpartition("/")[2]))
    ]
    puts = [one for one in found if re.search(r"(?i)put_?object|upload", one.code + one.path)]
    return puts if len(found) > 1 and puts else found


def lives(folder: Path) -> list[Expires]:
    """Give how long each URL lives that the code signs."""
    found = []
    for line, call in release.search(folder, CALLS):
        text = line.file.read_text("utf-8", "replace")
        begin = sum(map(len, text.splitlines(keepends=True)[: line.line - 1])) + call.end() - 1
        said = _EXPIRES.findall(" ".join(parts(enclosed(text, begin))))
        seconds = number(text, said[0]) if len(said) == 1 else None
        found.append(Expires(seconds, f"{line.file.name}:{line.line}"))
    return found


def logins(folder: Path) -> dict[Route, list[str]]:
    """Give the routes that take email and password for a token, each with the fields of its answer that may have it."""
    found = {}
    for one in routes(folder):
        if one.method == "post" and _LOGIN.search(one.path) and all(name in one.code for name in ("email", "password")):
            answers = re.finditer(r"\.(?:json|send)\(", one.code)
            named = [path for at in answers for path in fields(enclosed(one.code, at.end() - 1).strip())]
            found[one] = [path for path in named if path.rpartition(".")[2] in TOKENS]
    return found
