"""The notebooks as sources: how they read, that their links lead somewhere, and that their outputs are still true."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from opslib.runbook import procedure
from opslib.runbook.procedure import Procedure
from tests.outputs import GROUNDS
from tests.sandbox.layout import PM2_HOME

ROOT = procedure.root()
NAMES = procedure.names()
LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
STANDARD = ["environment", "apply", "approval", "reason", "incident"]
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.While)

ACTING = {"Is it safe to start?", "What will change?", "Do it"}
LOOKING = {"What is there?", "What is wrong?"}

each = pytest.mark.parametrize("one", [procedure.load(name) for name in NAMES], ids=NAMES)


def cells(one: Procedure, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in one.notebook["cells"] if cell["cell_type"] == kind]


def calls(code: str) -> set[str]:
    return {
        ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else type(node).__name__
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
    }


def acts(cell: dict[str, Any]) -> bool:
    return re.search(r"^run\.apply\(", cell["source"], re.M) is not None


@each
def test_reads_as_a_procedure_does(one: Procedure) -> None:
    assert 18 <= len(one.notebook["cells"]) <= 26
    assert one.notebook["cells"][0]["source"].startswith("# ")
    for phrase in ("**Use when**", "**Do not use when**", "**Changes**", "**Takes**", "**Undo**"):
        assert f"\n- {phrase}" in one.notebook["cells"][0]["source"], phrase
    assert len(one.summary) < 100
    assert list(one.parameters)[:5] == STANDARD
    assert one.parameters["apply"].default is False
    assert all(p.help for p in one.parameters.values())
    headings = re.findall(r"^## (.+)$", "\n".join(c["source"] for c in cells(one, "markdown")), re.M)
    assert headings[0] == "Parameters"
    of_all = {"Start the run", "If it did not"}
    assert of_all | (ACTING if any(map(acts, cells(one, "code"))) else LOOKING) <= set(headings)
    assert one.notebook["cells"][-1]["source"] == "run.finish()"


@each
def test_every_code_cell_is_short_plain_and_explained(one: Procedure) -> None:
    before = None
    for cell in one.notebook["cells"]:
        if cell["cell_type"] == "code":
            assert 1 <= len(cell["source"].splitlines()) <= 10
            tree = ast.parse(cell["source"])  # no magics, no !shell
            assert not [n for n in ast.walk(tree) if isinstance(n, FORBIDDEN)], cell["source"]
            assert not calls(cell["source"]) & {"input", "sleep", "exit", "eval", "exec"}
            assert acts(cell) == ("apply" in cell["metadata"].get("tags", []))
            assert before == "markdown" or cell["source"] == "run.finish()"
        before = cell["cell_type"]


def conditions(tree: ast.AST) -> int:
    """How many conditions there are: each branch, each `and` or `or`, each `if` of a comprehension."""
    found = 0
    for node in ast.walk(tree):
        found += isinstance(node, ast.If | ast.IfExp)
        found += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        found += len(node.ifs) if isinstance(node, ast.comprehension) else 0
    return found


@each
def test_has_one_purpose_and_few_conditions(one: Procedure) -> None:
    code = [cell["source"] for cell in cells(one, "code")]
    assert not {"stage", "method", "mode"} & one.parameters.keys()
    assert conditions(ast.parse("\n".join(code))) <= 8
    assert sum(len(source.splitlines()) for source in code) <= 75


@each
def test_what_judges_nothing_cannot_undo_what_was_changed(one: Procedure) -> None:
    code = "\n".join(cell["source"] for cell in cells(one, "code"))
    named = [(ast.unparse(n.func), n) for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    at = {name: [n.lineno for called, n in named if called == name] for name in ("run.apply", "run.verify")}
    first = min(at["run.apply"], default=math.inf)  # a procedure that only looks has none
    for note in [n for called, n in named if called == "run.note" and n.lineno > first]:
        for evidence in note.args[1:]:
            if isinstance(evidence, ast.Lambda):
                assert note.lineno > max(at["run.verify"]), ast.unparse(note)
            else:  # nothing is asked that could fail
                assert not [n for n in ast.walk(evidence) if isinstance(n, ast.Call)], ast.unparse(note)


@each
def test_links_lead_somewhere(one: Procedure) -> None:
    for cell in cells(one, "markdown"):
        for target in LINK.findall(cell["source"]):
            assert (one.path.parent / target).is_file(), target


@each
def test_outputs_are_stored_and_name_no_machine(one: Procedure) -> None:
    for cell in cells(one, "code")[1:]:
        assert cell["execution_count"], cell["source"]
        assert cell["outputs"] or not re.search(r"run\.|start\(", cell["source"]), cell["source"]
        assert not [o for o in cell["outputs"] if o["output_type"] in ("error", "stream")]
    text = json.dumps(one.notebook)
    assert str(ROOT) not in text
    assert "/home/" not in text


@pytest.mark.usefixtures("sandbox")
@each
def test_outputs_are_still_true(one: Procedure, tmp_path: Path) -> None:
    with GROUNDS.get(one.name, nullcontext)():
        compared = nbval(one.path)
    assert compared.returncode == 0, compared.stdout[-4000:]


@pytest.mark.usefixtures("sandbox")
def test_an_altered_output_is_found(tmp_path: Path) -> None:
    altered = tmp_path / "restart_api.ipynb"
    text = (ROOT / "notebooks/restart_api.ipynb").read_text()
    altered.write_text(text.replace("✓ The API answers", "✗ The API answers"))
    assert nbval(altered).returncode == 1


def nbval(path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a notebook anew and compare what it shows with what is stored."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(ROOT / "tests/sanitize.cfg"), str(path)]
    # As whoever runs the API has it, for connect_deployment to find.
    variables = {**os.environ, "PM2_HOME": str(PM2_HOME)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=variables)
