"""The search for secrets finds what it looks for."""

import base64
import json
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import leaks

SECRET = "pa/ss+wo%rd'with\"odd&signs"


@pytest.mark.parametrize(
    "text",
    [
        f"before {SECRET} behind",
        f"postgresql://u:{quote(SECRET, safe='')}@host/db",
        json.dumps({"a": SECRET}),
        json.dumps(json.dumps({"a": SECRET})),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"users:{SECRET}!".encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_a_planted_secret_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text(text)
    assert leaks.found({"KEY": SECRET}, [tmp_path])
    assert not leaks.found({"KEY": "another secret"}, [tmp_path])
    assert leaks.shown({"KEY": SECRET}, {"terminal": text})[0].startswith("terminal: KEY (")
    assert not leaks.shown({"KEY": "another secret"}, {"terminal": text})


def test_a_secret_in_a_command_line_is_found() -> None:
    with leaks.command_lines() as seen:
        subprocess.run(["sleep", "0.5", "0"], check=True)
    assert any(line.startswith("sleep 0.5 0") for line in seen)
