"""A search for secrets in what is left behind: as they are, and in the encodings that text usually takes."""

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit


def found(secrets: Mapping[str, str], places: Iterable[Path]) -> list[str]:
    """Say which secret stands in which file, in which form; empty if none does."""
    forms = {
        form: f"{name} ({how})" for name, secret in secrets.items() for how, form in _forms(secret) if len(form) >= 8
    }
    leaks = []
    for place in places:
        for file in place.rglob("*") if place.is_dir() else [place]:
            if file.is_file():
                content = file.read_bytes()
                leaks += [f"{file}: {name}" for form, name in forms.items() if form.encode() in content]
    return leaks


def _forms(secret: str) -> Iterator[tuple[str, str]]:
    yield "as it is", secret
    if password := "://" in secret and urlsplit(secret).password:
        yield "its password", password
    yield "URL-encoded", quote(secret, safe="")
    yield "in a form", quote_plus(secret)
    yield "in JSON", json.dumps(secret)[1:-1]
    yield "in JSON twice", json.dumps(json.dumps(secret))[3:-3]
    yield "in HTML", html.escape(secret)
    yield "hexadecimal", secret.encode().hex()
    for shift in range(3):
        # Without the digits that depend on what stands before and behind it.
        digits = base64.b64encode(b"x" * shift + secret.encode()).decode()
        yield "base64", digits[(0, 2, 3)[shift] : (len(secret.encode()) + shift) * 8 // 6]
