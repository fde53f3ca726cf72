"""Masking: no value that opslib has read or made leaves the kernel, in any encoding that text usually takes."""

import base64
import html
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

_ESCAPE = re.compile("%[0-9A-F]{2}")

SHORTEST = 4
"""Values below this many characters are not masked: they would blot out ordinary words."""
_PART = 8  # the beginning of a secret that ends an output is masked from this length on


class Mask:
    """The known secrets, and the text without them."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._needles: list[str] = []

    def add(self, name: str, value: str) -> None:
        """Know one more secret; of a URL the password too, of a text with several lines each line."""
        for secret in _parts(value):
            for form in _forms(secret):
                self._names.setdefault(form, name)
        self._needles = sorted(self._names, key=len, reverse=True)

    def know(self, values: Mapping[str, str]) -> None:
        """Know these secrets too, by name."""
        for name, value in values.items():
            self.add(name, value)

    def text(self, text: str) -> str:
        """Give the text with `[NAME masked]` in place of each secret."""
        for needle in self._needles:
            if needle in text:
                text = text.replace(needle, f"[{self._names[needle]} masked]")
        return text

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
        """How many characters at the end of the text may be the beginning of a secret."""
        longest = len(self._needles[0]) - 1 if self._needles else 0
        firsts = {needle[0] for needle in self._needles}
        for start in range(max(0, len(text) - longest), len(text)):
            if text[start] in firsts:
                end = text[start:]
                if any(needle.startswith(end) for needle in self._needles):
                    return len(end)
        return 0


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


def _parts(value: str) -> Iterator[str]:
    yield value
    if "://" in value:
        try:
            password = urlsplit(value).password
        except ValueError:
            password = None
        if password:
            yield password
            yield unquote(password)
    yield from (line for line in value.splitlines() if len(line) >= 16 and line != value)


def _forms(secret: str) -> set[str]:
    if len(secret) < SHORTEST:
        return set()
    raw = secret.encode("utf-8", "surrogateescape")
    forms = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        shlex.quote(secret).strip("'"),
        secret.replace("'", "''"),
        raw.hex(),
    }
    for shift in range(3):
        # In base64 a secret that follows other bytes takes one of three forms, each but for its first and last digits.
        padded = base64.b64encode(b"\0" * shift + raw).decode()
        core = padded[(0, 2, 3)[shift] : (len(raw) + shift) * 8 // 6]
        forms |= {core, core.replace("+", "-").replace("/", "_")}
    forms |= {json.dumps(form)[1:-1] for form in forms}
    forms |= {_ESCAPE.sub(lambda escape: escape[0].lower(), form) for form in forms}
    return {form for form in forms if len(form) >= SHORTEST}
