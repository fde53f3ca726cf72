"""A variable of an `.env` file: replaced or removed, and put back as it was."""

import re
from pathlib import Path

from .credentials import write_private


def set_aside(dotenv: Path, saved: Path, name: str, value: str | None) -> None:
    """Replace a line of an `.env`, or remove it, and keep the one that was there in the folder `saved`."""
    text, line = dotenv.read_text(), _line(name)
    if (saved / name).exists() or not (found := line.search(text)):
        return
    write_private(saved / name, found[0])
    write_private(dotenv, line.sub(lambda _: "" if value is None else f"{name}={value}\n", text))


def put_back(dotenv: Path, saved: Path, name: str) -> bool:
    """Undo `set_aside`; False if there was nothing to undo."""
    kept = saved / name
    if not kept.exists():
        return False
    text = _line(name).sub("", dotenv.read_text())
    write_private(dotenv, text.rstrip("\n") + f"\n{kept.read_text()}")
    kept.unlink()
    return True


def _line(name: str) -> re.Pattern[str]:
    return re.compile(rf"^{name}=.*\n", re.MULTILINE)
