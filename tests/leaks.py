"""A search for secrets in what is left behind: as they are, and in the encodings that text usually takes."""

import base64
import html
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.runbook import record
from tests.sandbox.credentials import Credentials

KNOWN = {"postgres_user", "login_email"}  # of the credentials, those that are no secret


def found(secrets: Mapping[str, str], places: Iterable[Path]) -> list[str]:
    """Say which secret stands in which file, in which form; empty if none does."""
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    forms = _forms(secrets)
    return [leak for file in files for leak in _within(str(file), file.read_bytes(), forms)]


def left() -> list[str]:
    """Say which secret of the running stand-in stands in a record, an export or a log that is left of it."""
    env = propertypulse.load("sandbox")
    secrets = {name: value for name, value in asdict(Credentials.load()).items() if name not in KNOWN}
    secrets |= {key: value for key, value in env_file.read(env.api.env_file).items() if key in env.secrets}
    return found(secrets, [record.folder(), env.api.pm2_home / "logs", env.api.pm2_home / "pm2.log"])


def shown(secrets: Mapping[str, str], texts: Mapping[str, str]) -> list[str]:
    """Say which secret stands in which of these texts, in which form; empty if none does."""
    forms = _forms(secrets)
    return [leak for title, text in texts.items() for leak in _within(title, text.encode(), forms)]


@contextmanager
def command_lines(every: float = 0.05) -> Iterator[set[str]]:
    """Collect the command lines of all processes that are seen meanwhile, asked so often (seconds)."""
    seen, over = set[str](), threading.Event()

    def look() -> None:
        while not over.wait(every):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended
                    seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _within(place: str, content: bytes, forms: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{place}: {name}" for form, name in forms.items() if form.encode() in content)


def _forms(secrets: Mapping[str, str]) -> dict[str, str]:
    """Give each form of each secret that is long enough not to be met by chance, and its name."""
    forms = [(name, how, form) for name, secret in secrets.items() for how, form in _encoded(secret)]
    # From the end, so that of encodings that leave a secret as it is the first names it.
    return {form: f"{name} ({how})" for name, how, form in reversed(forms) if len(form) >= 8}


def _encoded(secret: str) -> Iterator[tuple[str, str]]:
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
