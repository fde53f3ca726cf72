"""A procedure: a notebook, its parameters, and the copy of it that a run executes."""

import ast
import copy
import difflib
import hashlib
import io
import json
import os
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opslib.runbook import secret_shape
from opslib.runbook.errors import BadParameter, Refused

TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
TEXT_LIMIT = 2000
"""The longest text that a parameter takes, in characters."""

DESCRIBES = "describes-environment"
"""The tag of the parameters of a procedure that does so."""

# A comment may begin with what is allowed: `# [5..600] seconds …` or `# [graceful|hard] how …`.
_ALLOWED = re.compile(r"\[(?:(?P<low>-?[\d.]+?)\.\.(?P<high>-?[\d.]+)|(?P<choices>[^\]|]+(?:\|[^\]|]+)+))\]\s*")
_VERIFY = "run.verify("
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def root() -> Path:
    """The folder that holds notebooks/, parameters/ and records/."""
    return Path(os.environ.get("RUNBOOK_ROOT") or Path(__file__).parents[2]).resolve()


def located(path: Path) -> str:
    """Give a path as the project's files say it: from the root, where it lies below that."""
    return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)


@dataclass(frozen=True)
class Parameter:
    """One line of the cell tagged `parameters`: `name: type = default  # [allowed] help`."""

    name: str
    type: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def accept(self, value: object) -> Any:
        """Give the value, converted from text if need be. Raise BadParameter if it does not fit."""
        if self.type is str and isinstance(value, float):  # somebody's guess at a text, as at the digest 77950e8
            raise self._wrong(value, "text: quote it in a file of parameters; papermill takes it as it is after -r")
        try:
            fitting = self._convert(value)
        except (ValueError, OverflowError):
            raise self._wrong(value, f"a value of type {self.type.__name__}") from None
        if isinstance(fitting, str):
            if len(fitting) > TEXT_LIMIT:
                raise BadParameter(
                    f"parameter {self.name}: found {len(fitting)} characters, expected {TEXT_LIMIT} at most"
                )
            if unseen := _CONTROL.search(fitting):
                raise self._wrong(fitting, f"text without control characters (found {unseen[0]!a})")
            if secret_shape.hidden(fitting) != fitting:
                raise BadParameter(
                    f"parameter {self.name} holds what looks like a secret: say where that is (a reference)"
                )
            if self.choices and fitting not in self.choices:
                raise self._wrong(fitting, " or ".join(self.choices))
        elif self.low is not None and self.high is not None and not self.low <= fitting <= self.high:
            raise self._wrong(fitting, f"{self.low:g} to {self.high:g}")
        return fitting

    def _convert(self, value: object) -> Any:
        if self.type is bool:
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return value.lower() == "true"
            if isinstance(value, bool):
                return value
            raise ValueError
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if self.type is int and (isinstance(value, float) or (isinstance(value, str) and not value.isascii())):
            raise ValueError
        fitting = self.type(value)
        if isinstance(fitting, int | float) and not abs(fitting) < 1 << 63:  # so neither infinite nor not a number
            raise ValueError
        return fitting

    def _wrong(self, value: object, expected: str) -> BadParameter:
        shown = ascii(value) if not isinstance(value, int) or abs(value) < 1 << 256 else "a number of very many digits"
        shown = shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
        return BadParameter(f"parameter {self.name}: found {shown}, expected {expected}")


@dataclass(frozen=True)
class Procedure:
    """A notebook as committed, with what its first cells say of it."""

    name: str
    path: Path
    notebook: dict[str, Any]
    parameters: dict[str, Parameter]

    @property
    def title(self) -> str:
        """The notebook's heading."""
        return self._first_lines()[0].lstrip("# ")

    @property
    def summary(self) -> str:
        """The first sentence below the heading, on one line."""
        prose = " ".join(self._first_lines()[1:])
        return re.split(r"(?<=[.!?])\s", prose.strip(), maxsplit=1)[0]

    @property
    def describes(self) -> bool:
        """Whether it writes the file of its environment, which need not be there before."""
        return any(DESCRIBES in _tags(cell) for cell in self.notebook["cells"])

    @property
    def digest(self) -> str:
        """SHA-256 over the code and prose of the notebook, not over its stored outputs."""
        cells = [[cell["cell_type"], cell["source"]] for cell in self.notebook["cells"]]
        return hashlib.sha256(json.dumps(cells).encode()).hexdigest()

    @property
    def verifies(self) -> dict[int, int]:
        """The code cells that ask a verify, by their number; of each the line of the last one."""
        asked = {}
        for number, source in enumerate(self._code()):
            if lines := [line for line, text in enumerate(source.splitlines(), 1) if _VERIFY in text]:
                asked[number] = lines[-1]
        return asked

    def cell(self, source: str) -> int:
        """Give the number of the code cell with this source, -1 if there is none."""
        return next((number for number, own in enumerate(self._code()) if own.strip() == source.strip()), -1)

    def has(self, source: str) -> bool:
        """Whether a cell with this source is one of the procedure's own, or only gives values to its parameters."""
        if self.cell(source) >= 0 or not source.strip():
            return True
        try:
            return all(self._is_value(line) for line in ast.parse(source).body)
        except SyntaxError:
            return False

    def _is_value(self, line: ast.stmt) -> bool:
        match line:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                return name in self.parameters and isinstance(value, ast.Constant | ast.UnaryOp)
        return False

    def bind(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Check the given values against the declared parameters; give all of them, defaults filled in."""
        for name in given:
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                known = ", ".join(self.parameters)
                raise BadParameter(f"{self.name} has no parameter {name[:80]!a}{meant}; it has {known}")
        return {name: p.accept(given.get(name, p.default)) for name, p in self.parameters.items()}

    def copy(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give a notebook to execute: the values in a cell of their own, and no output."""
        notebook = copy.deepcopy(self.notebook)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
        at = next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in _tags(cell)) + 1
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        injected: dict[str, Any] = {
            "cell_type": "code",
            "id": "parameters-of-this-run",
            "metadata": {"tags": ["injected-parameters"]},
            "source": "\n".join(["# Parameters of this run", *lines]),
            "outputs": [],
            "execution_count": None,
        }
        notebook["cells"].insert(at, injected)
        return notebook

    def _code(self) -> list[str]:
        return [cell["source"] for cell in self.notebook["cells"] if cell["cell_type"] == "code"]

    def _first_lines(self) -> list[str]:
        first = self.notebook["cells"][0]["source"] if self.notebook["cells"] else self.name
        return [line for line in first.splitlines() if line.strip()] or [self.name]


def code() -> str:
    """SHA-256 over opslib's own modules: what carries a plan out is approved with it."""
    package = Path(__file__).parents[1]
    found = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(f"{file.relative_to(package)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def load(name: str) -> Procedure:
    """Read `notebooks/NAME.ipynb`. Raise Refused if there is none of that name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise Refused(f"there is no procedure {name[:80]!a}.{meant} `runbook list` shows them all.")
    return read(root() / "notebooks" / f"{name}.ipynb")


def names() -> list[str]:
    """The names of all procedures, sorted."""
    return sorted(path.stem for path in (root() / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Procedure:
    """Read a notebook file as a procedure. Raise Refused, naming the file, if it is none."""
    try:
        notebook = json.loads(path.read_bytes())
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])  # on disk a list of lines, which differ well
        declared = next((c for c in notebook["cells"] if "parameters" in _tags(c)), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path}: not a notebook that can be read ({error})") from None
    try:
        parameters = _declared(declared["source"], path) if declared else {}
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise Refused(f"{path}: parameters cell: {error}; expected lines `name: type = default  # help`") from None
    return Procedure(path.stem, path, notebook, parameters)


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return list(cell["metadata"].get("tags", []))


def _declared(code: str, path: Path) -> dict[str, Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    parameters = {}
    for line in ast.parse(code).body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
            raise Refused(f"{path}: parameters cell, line {line.lineno}: expected `name: type = default  # help`")
        annotation = ast.unparse(line.annotation)
        if annotation not in TYPES:
            raise Refused(f"{path}: {line.target.id}: found type {annotation}, expected one of {', '.join(TYPES)}")
        text = comments.get(line.end_lineno or line.lineno, "")
        allowed = _ALLOWED.match(text)
        limits: dict[str, Any] = {}
        if allowed and allowed["choices"]:
            limits = {"choices": tuple(allowed["choices"].split("|"))}
        elif allowed:
            limits = {"low": float(allowed["low"]), "high": float(allowed["high"])}
        parameters[line.target.id] = Parameter(
            line.target.id,
            TYPES[annotation],
            ast.literal_eval(line.value),
            text[allowed.end() :] if allowed else text,
            **limits,
        )
    return parameters
