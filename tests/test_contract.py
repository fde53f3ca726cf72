"""The contract: what a notebook may import."""

import ast
import importlib.util
import json
import pkgutil
import re
import types
from collections.abc import Iterator

import opslib
from opslib.runbook import errors, procedure


def test_all_is_sorted_and_equal_to_the_public_names() -> None:
    public = [
        n for n, value in vars(opslib).items() if not n.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    assert sorted(opslib.__all__) == opslib.__all__ == sorted(public)


def test_it_names_what_notebooks_import_and_nothing_else() -> None:
    code = "\n".join(
        "".join(cell["source"])
        for file in (procedure.root() / "notebooks").glob("*.ipynb")
        for cell in json.loads(file.read_text())["cells"]
        if cell["cell_type"] == "code"
    )
    imported = [
        n.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "opslib"
        for n in node.names
        if importlib.util.find_spec(f"opslib.{n.name}") is None  # a module is no part of the contract
    ]
    assert sorted({*imported}) == opslib.__all__


def test_every_outcome_has_an_exit_code() -> None:
    assert {outcome.value: outcome.exit_code for outcome in errors.Outcome} == {
        "planned": 0,
        "applied": 0,
        "failed": 1,
        "undone": 2,
        "needs-person": 3,
        "refused": 4,
        "interrupted": 143,
    }


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    importlib.import_module("papermill")  # which loads our engine, and must be whole by then
    for module in pkgutil.walk_packages(opslib.__path__, "opslib."):
        importlib.import_module(module.name)
    assert {(one.__name__, depth) for one, depth in below(errors.RunbookError)} == {
        (name, len(indent) // 4) for indent, name in drawing()
    }


def below(error: type[Exception], depth: int = 0) -> Iterator[tuple[type[Exception], int]]:
    yield error, depth
    for one in error.__subclasses__():
        if one.__module__.startswith("opslib.") and not one.__name__.startswith("_"):
            yield from below(one, depth + 1)


def drawing() -> list[tuple[str, str]]:
    """The lines of the tree in the docstring: what stands before each name, and the name."""
    assert errors.__doc__
    tree = errors.__doc__[errors.__doc__.index("\nRunbookError") :]
    return re.findall(r"^((?:[│├└─ ]{4})*)(\w+)", tree, re.M)
