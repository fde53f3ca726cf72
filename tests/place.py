"""A place of its own for a test: a folder with notebooks/, parameters/ and an `.env`, as the root has them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tests.sandbox.layout import ROOT

PARAMETERS = """\
environment: str = "test"  # the deployment to work on
apply: bool = False  # False shows the plan, True carries it out
approval: str = ""  # digest of the approved plan
reason: str = ""  # why, for the record
incident: str = ""  # the incident that this run belongs to"""

START = """\
from opslib import Change, Kept, act, start
from opslib.runbook.errors import UndoFailed

run = start("{name}", environment=environment, apply=apply, approval=approval, reason=reason, incident=incident)"""

SECRET = "hunter2/with+odd 'marks' & ümlaut"


class Place:
    """A folder that RUNBOOK_ROOT points at."""

    def __init__(self, folder: Path, *, approval: str = "none", limits: str = "{}") -> None:
        self.folder = folder
        for name in ("notebooks", "parameters", "app"):
            (folder / name).mkdir(parents=True)
        (folder / "app/.env").write_text(f'JWT_SECRET="{SECRET}"\nPORT=5000\n', encoding="utf-8")
        (folder / "parameters/test.yaml").write_text(
            f"title: A place for tests\napproval: {approval}\nsecrets: [JWT_SECRET]\nlimits: {limits}\n"
            "api: {name: api, url: 'http://127.0.0.1:9', pm2_home: pm2, env_file: app/.env, release: app}\n"
        )

    def write(
        self,
        name: str,
        *cells: str,
        parameters: str = "",
        start: bool = True,
        tags: Mapping[int, str] = MappingProxyType({}),
    ) -> Path:
        """Write a procedure whose cells are these, after its parameters and, unless told otherwise, its start."""
        codes = [START.format(name=name), *cells] if start else list(cells)
        tagged = {i + start: tag for i, tag in tags.items()}
        body = [
            _markdown(f"# Try {name}\nDoes what a test wants. More words."),
            _code(f"{PARAMETERS}\n{parameters}", "parameters"),
        ]
        body += [_code(code, tagged.get(i)) for i, code in enumerate(codes)]
        for i, cell in enumerate(body):
            cell["id"] = f"cell-{i}"
        notebook = {
            "cells": body,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        }
        path = self.folder / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
        return path

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of a command that works in this place."""
        return {**os.environ, "RUNBOOK_ROOT": str(self.folder)}

    def start(
        self, *arguments: str, variables: Mapping[str, str] = MappingProxyType({}), **options: Any
    ) -> "subprocess.Popen[str]":
        """Start the `runbook` command, with these environment variables too."""
        command = [sys.executable, "-m", "opslib.runbook.cli", *arguments]
        options |= {"env": {**self.variables, **variables}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, **options)

    def runbook(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the `runbook` command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, name: str, *arguments: str) -> "tuple[int, dict[str, Any]]":
        """Run a procedure; give its exit code and the record."""
        done = self.runbook("run", name, *arguments)
        assert "Traceback" not in done.stderr, done.stderr
        lines = done.stdout.splitlines()
        assert lines, done.stderr
        return done.returncode, json.loads(Path(lines[-1]).read_text(encoding="utf-8"))


def states(record: dict[str, Any]) -> list[str]:
    """Give the state of each code cell of a record."""
    return [c["metadata"]["papermill"]["status"] for c in record["cells"] if c["cell_type"] == "code"]


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _code(text: str, tag: str | None = None) -> dict[str, Any]:
    metadata = {"tags": [tag]} if tag else {}
    return {"cell_type": "code", "metadata": metadata, "source": text, "outputs": [], "execution_count": None}


def described(name: str) -> dict[str, Any]:
    """What `parameters/NAME.yaml` says, with paths that hold from any root."""
    text = (ROOT / f"parameters/{name}.yaml").read_text()
    content: dict[str, Any] = yaml.safe_load(re.sub(r"(?<![\w/])tests/", f"{ROOT}/tests/", text))
    return content


def rooted(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Make the folder a root with the real notebooks, whose environment of this name is as `content` says."""
    (folder / "parameters").mkdir(parents=True, exist_ok=True)
    (folder / f"parameters/{name}.yaml").write_text(yaml.safe_dump(dict(content)))
    if not (folder / "notebooks").exists():
        (folder / "notebooks").symlink_to(ROOT / "notebooks")
    return folder


def elsewhere(folder: Path, name: str = "sandbox", **parts: Any) -> Path:
    """A root whose environment differs in these settings."""
    content = described(name)
    for key, value in parts.items():
        old = content.get(key)
        content[key] = old | value if isinstance(old, dict) else value
    return rooted(folder, name, content)
