"""Masking: no value that opslib has read or made leaves the kernel, however other programs write it.

A secret is found as it is, escaped, and by its letters and digits alone: wrapped, indented, escaped in a way of which
nobody has thought, in base64 or hexadecimal. Of one that is cut, a few characters may be left.
"""

import base64
import html
import json
import os
import re
import shlex
import string
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from opslib.runbook import table
from opslib.runbook.procedure import root

SHORTEST = 4
"""Values below this many characters are masked only where they are called a secret."""
WORD = 8
"""So are words and numbers below this many characters, and longer words that stand in a notebook or a parameter set."""
_PART = 8  # the beginning of a secret that ends an output is masked from this length on
_GRAM, _STEP = 8, 4  # letters that are looked up at once, and how far apart: whatever 11 in a row are, they are met
_LEAST, _ENOUGH = 12, 24  # in a row, these give a secret away: a quarter of it, within these bounds
_NEAR = 200  # characters beside an ellipsis that are looked at

_ESCAPE = re.compile("%[0-9A-F]{2}")
# One character, as JSON, Python, C, PHP, Go, a URL (or one in it) or HTML write it; a terminal's colour, a short tag.
_ESCAPED = (
    r"(?:\\u001b|\x1b)\[[\d;]*m|</?[a-z]{1,6} ?/?>|"
    r"\\+(?:u(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F]+\})|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|[0-7]{3}|[abfnrtv0])"
    r"|%(?:25)*[0-9a-fA-F]{2}|&#?\w{1,8};"
)
_SIGN = re.compile(r"[\\%&<\x1b]")  # without one of these nothing is escaped
_ESCAPES, _LETTERS = re.compile(_ESCAPED), re.compile(rf"{_ESCAPED}|([A-Za-z0-9]+)")
_OTHERS = bytes(set(range(128)) - set((string.ascii_letters + string.digits).encode()))
_ELLIPSIS = re.compile(r"\.\.\.|…")
_TURN = re.compile(rb"[a-z](?=[A-Z0-9])|[A-Z](?=[a-z0-9])|[0-9](?=[a-zA-Z])")


@dataclass(frozen=True, eq=False)
class _Strand:
    """The letters and digits of one form of a secret."""

    name: str
    letters: bytes
    any_part: bool  # whether a part gives it away, and not only the whole, as with a URL, most of which is known

    def given_away(self, part: bytes, *, least: int) -> bool:
        """Whether these of its letters, which stand in a row, say something of it."""
        if len(part) == len(self.letters):
            return True
        an_end = least <= _GRAM and (self.letters.startswith(part) or self.letters.endswith(part))
        return self.any_part and len(part) >= least and (an_end or _varied(part))

    @property
    def least(self) -> int:
        """How many letters in a row give it away."""
        return max(_LEAST, min(len(self.letters) // 4, _ENOUGH))


class Mask:
    """The known secrets, and the text without them."""

    def __init__(self) -> None:
        self.ordinary: dict[str, str] = {}
        """By name, why a secret is masked only where it is called one: it cannot be told from ordinary text."""
        self._names: dict[str, str] = {}
        self._needles: list[str] = []
        self._called: dict[re.Pattern[str], str] = {}
        self._whole: set[bytes] = set()
        self._short: dict[bytes, str] = {}
        self._grams: dict[bytes, list[tuple[_Strand, int]]] = {}
        self._lock = threading.RLock()  # secrets are read, and text is masked, in several threads

    def add(self, name: str, value: str) -> None:
        """Know one more secret; of a URL the password too, of JSON each secret in it."""
        with self._lock:
            for secret, any_part in _parts(value):
                if why := _ordinary(secret):
                    self.ordinary[name] = why
                    self._called[_calling(name, secret)] = name
                    continue
                forms, written = _forms(secret)
                for form in forms:
                    self._names.setdefault(form, name)
                for letters in written:
                    self._learn(name, letters, any_part)
            self._needles = sorted(self._names, key=len, reverse=True)

    @property
    def doubt(self) -> str:
        """Say which secrets are masked only where they are called one; empty if none is."""
        said = ", ".join(f"{name} ({why})" for name, why in sorted(self.ordinary.items()))
        why = "NOT MASKED but where it is called a secret, for it would blot out ordinary text"
        return f"{why}: {said}. Replace it by a long one" if said else ""

    def know(self, values: Mapping[str, str]) -> None:
        """Know these secrets too, by name."""
        for name, value in values.items():
            self.add(name, value)

    def text(self, text: str) -> str:
        """Give the text with `[NAME masked]` in place of each secret."""
        with self._lock:
            for needle in self._needles:
                if needle in text:
                    text = text.replace(needle, f"[{self._names[needle]} masked]")
            for called, name in self._called.items():
                text = called.sub(rf"\1[{name} masked]", text)
            return self._without_parts(text) if len(text) >= _GRAM else text

    def tree(self, value: Any) -> Any:
        """Give a JSON-like value with every text in it masked, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return type(value)({self.tree(k): self.tree(v) for k, v in value.items()})
        if isinstance(value, list | tuple):
            return type(value)(self.tree(item) for item in value)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return value

    def begun(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a secret, or a part of one."""
        longest = len(self._needles[0]) - 1 if self._needles else 0
        firsts = {needle[0] for needle in self._needles}
        for start in range(max(0, len(text) - longest), len(text)):
            if text[start] in firsts:
                end = text[start:]
                if any(needle.startswith(end) for needle in self._needles):
                    return len(end)
        letters = _squeezed(text)
        part = self._part(letters, len(letters) - _GRAM, _GRAM)
        return len(text) - next(_places(text, [part[0]])) if part else 0

    def _learn(self, name: str, letters: bytes, any_part: bool) -> None:
        if letters in self._whole:
            return
        self._whole.add(letters)
        if _GRAM <= len(letters) < _LEAST:
            self._short[letters] = name
        strand = _Strand(name, letters, any_part)
        for at in range(len(letters) - _GRAM + 1):
            gram = letters[at : at + _GRAM]
            if len({*gram}) > _GRAM // 3:  # a row of zeros tells nothing, and stands in very many places
                self._grams.setdefault(gram, []).append((strand, at))

    def _without_parts(self, text: str) -> str:
        """Give the text without the secrets, and parts of secrets, that only their letters and digits tell."""
        letters = _squeezed(text)
        found = sorted({*self._short_ones(letters), *self._parts(letters)})
        if not found and not _ELLIPSIS.search(text):
            return text
        apart: list[tuple[int, int, str]] = []
        for start, end, name in found:
            if apart and start < apart[-1][1]:
                first, last, name = apart.pop()
                start, end = first, max(last, end)
            apart.append((start, end, name))
        places = _places(text, (at for start, end, _ in apart for at in (start, end - 1)))
        spans = [(start, next(places) + 1, name) for start, (_, _, name) in zip(places, apart, strict=False)]
        spans += self._cut(text)
        shown, past = [], 0
        for start, end, name in sorted(spans):
            if end > past:
                shown += [text[past:start], f"[{name} masked]"] if start >= past else []
                past = end
        return "".join([*shown, text[past:]])

    def _short_ones(self, letters: bytes) -> Iterator[tuple[int, int, str]]:
        for short, name in self._short.items():
            at = letters.find(short)
            while at >= 0:
                yield at, at + len(short), name
                at = letters.find(short, at + len(short))

    def _parts(self, letters: bytes) -> Iterator[tuple[int, int, str]]:
        grams, past = self._grams, 0
        for at in range(0, len(letters) - _GRAM + 1, _STEP):
            if letters[at : at + _GRAM] in grams and at >= past and (part := self._part(letters, at)):
                yield part
                past = part[1]

    def _part(self, letters: bytes, at: int, least: int = 0) -> tuple[int, int, str] | None:
        """Give the longest part around this place that gives a secret away: where it begins and ends, and the name."""
        found = []
        for strand, known in self._grams.get(letters[max(at, 0) : at + _GRAM], ()):
            start, end, secret, shift = at, at + _GRAM, strand.letters, known - at
            while start and start + shift and letters[start - 1] == secret[start + shift - 1]:
                start -= 1
            while end < len(letters) and end + shift < len(secret) and letters[end] == secret[end + shift]:
                end += 1
            if strand.given_away(letters[start:end], least=least or strand.least):
                found.append((start, end, strand.name))
        return max(found, key=lambda one: one[1] - one[0], default=None)

    def _cut(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Give what stands of a secret right before or behind an ellipsis: there fewer letters tell it."""
        for one in _ELLIPSIS.finditer(text):
            for begin, end in ((max(0, one.start() - _NEAR), one.start()), (one.end(), one.end() + _NEAR)):
                beside = text[begin:end]
                letters = _squeezed(beside)
                at = len(letters) - _GRAM if end == one.start() else 0
                if part := self._part(letters, at, _GRAM):
                    start, stop = _places(beside, [part[0], part[1] - 1])
                    yield begin + start, begin + stop + 1, part[2]


class Stream:
    """Masks a text that arrives in pieces, so that a secret written in several goes is found too."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece, give what can be shown by now."""
        text = self._mask.text(self._held + piece)
        cut = len(text) - self._mask.begun(text)
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """Give what was held back, at the end of the output."""
        held, self._held = self._held, ""
        return held if len(held) < _PART else "[masked]"


mask = Mask()
"""The secrets that this process knows."""


def install() -> None:
    """Mask whatever this kernel sends: streams, displays, results, errors, replies, widget state. Once is enough."""
    kernel = getattr(sys.modules.get("IPython") and sys.modules["IPython"].get_ipython(), "kernel", None)
    if kernel is None or hasattr(kernel.session, "_unmasked_serialize"):
        return
    session = kernel.session
    serialize = session._unmasked_serialize = session.serialize
    streams = {name: Stream(mask) for name in ("stdout", "stderr")}

    def masked(message: dict[str, Any], ident: Any = None) -> Any:
        kind, content = message.get("msg_type"), message.get("content")
        if kind == "stream" and isinstance(content, dict):
            content = {**content, "text": streams[content["name"]].feed(content["text"])}
        elif isinstance(content, dict):
            if kind == "status" and content.get("execution_state") == "idle":
                for name, stream in streams.items():
                    if rest := stream.rest():
                        late = session.msg("stream", {"name": name, "text": rest}, parent=message["parent_header"])
                        kernel.iopub_socket.send_multipart(serialize(late, ident=f"stream.{name}".encode()))
            content = mask.tree(content)
        shown = {**message, "content": content, "metadata": mask.tree(message.get("metadata"))}
        return serialize(shown, ident)

    session.serialize = masked
    for stream in (sys.stdout, sys.stderr):
        # ipykernel repeats the output of child processes, unmasked, on the terminal of the server.
        copy = getattr(stream, "_original_stdstream_copy", None)
        if copy is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, copy)
            os.close(nowhere)


def _parts(value: str) -> Iterator[tuple[str, bool]]:
    """Give the secrets in a value; and of each, whether a part of it gives it away, as none of a host's name does."""
    passwords = re.findall(r"(?i)\b(?:password|pwd) *= *([^;\s]+)", value)  # of `host=… password=…`, say
    url = "://" in value or bool(passwords)
    said = _said(value) if value.startswith(("{", "[")) else []
    yield value, not url and not said
    if "\\n" in value:
        yield value.replace("\\r", "\r").replace("\\n", "\n"), not said
    if "://" in value:
        try:
            password = urlsplit(value).password
        except ValueError:
            password = None
        if password:
            yield password, True
            yield unquote(password), True
    for password in passwords:
        yield password.strip("'\""), True
    for inner in said:
        if "\n" in inner or (_varied(_squeezed(inner)) and not re.search(r"://|@|\s", inner)):
            yield inner, True


def _said(value: str) -> list[str]:
    """Give every text in a value that is JSON."""
    found: list[str] = []
    try:
        json.loads(value, object_hook=lambda one: found.extend(x for x in one.values() if isinstance(x, str)))
    except (ValueError, RecursionError):
        return []
    return found


def _ordinary(secret: str) -> str:
    """Say why a secret cannot be told from ordinary text; empty if it can be."""
    if len(secret) < SHORTEST:
        return f"has {len(secret)} characters" if secret else ""
    if not re.fullmatch(r"[0-9]+|[A-Z]?[a-z]+|[A-Z]+", secret):
        return ""
    if len(secret) < WORD:
        return "is a short word or number"
    return "is a word that stands in a notebook or in parameters/" if _is_used(secret) else ""


def _is_used(word: str) -> bool:
    there = re.compile(rf"\b{word}\b", re.IGNORECASE)
    files = [*root().glob("notebooks/*.ipynb"), *root().glob("parameters/*.yaml")]
    return any(there.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _calling(name: str, secret: str) -> re.Pattern[str]:
    """The places where a value is called a secret: behind its name or one like it, or as the password in a URL."""
    called = rf"\b(?:{re.escape(name)}|[\w.-]{{0,40}}(?:pass|pwd|secret|token|key)[\w.-]{{0,40}})"
    value = re.escape(secret)
    return re.compile(rf"({called}\W{{0,3}}[=:]\s*\W{{0,2}}|://[^\s:/@]*:){value}(?!\w)", re.IGNORECASE)


def _squeezed(text: str) -> bytes:
    """Give the letters and digits of a text, without those that are part of an escape."""
    if _SIGN.search(text):
        text = _ESCAPES.sub(" ", text)
    return text.encode("ascii", "ignore").translate(None, _OTHERS)


def _places(text: str, numbers: Iterable[int]) -> Iterator[int]:
    """Give where in a text these of its letters and digits stand; `numbers` rise."""
    runs = (one.span(1) for one in _LETTERS.finditer(text) if one[1])
    begin = end = before = 0
    for number in numbers:
        while number >= before + end - begin:
            before += end - begin
            begin, end = next(runs)
        yield begin + number - before


def _varied(letters: bytes) -> bool:
    """Whether letters look made by a machine: small ones, capitals and digits take turns."""
    return len(_TURN.findall(letters)) >= 3


def _forms(secret: str) -> tuple[set[str], set[bytes]]:
    """Give how a secret may be written, and the letters and digits of these."""
    raw = secret.encode("utf-8", "surrogateescape")
    quoted, shown = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
    forms = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        quoted,
        shown,
        quoted.replace("/", "\\/"),  # PHP
        shown.translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}),  # Go
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        shlex.quote(secret).strip("'"),
        secret.replace("'", "''"),
        table.escape(secret),
    }
    forms |= {json.dumps(form)[1:-1] for form in forms}
    forms |= {_ESCAPE.sub(lambda escape: escape[0].lower(), form) for form in forms}
    coded = {raw.hex(), raw.hex().upper()}
    for shift in range(3):
        # In base64 a secret that follows other bytes takes one of three forms, each but for its first and last digits.
        padded = base64.b64encode(b"\0" * shift + raw).decode()
        core = padded[(0, 2, 3)[shift] : (len(raw) + shift) * 8 // 6]
        coded |= {core, core.replace("+", "-").replace("/", "_")}
    known = {form for form in forms | coded if len(form) >= SHORTEST}
    return known, {_squeezed(form) for form in {secret, *coded}}
