"""A working copy: what a person steps through in JupyterLab, never the procedure itself; it becomes the record."""

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from opslib.runbook import environment as environments, ledger, record, runner
from opslib.runbook.errors import Outcome, Refused, RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import Procedure
from opslib.runbook.step import Step, contradiction, ending, now, standing

_LINK = re.compile(r"\]\((?:\./)?(?P<name>\w+)\.ipynb(?:#[^)]*)?\)")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def make(procedure: Procedure, given: Mapping[str, object], *, base: str = "/") -> Path:
    """Write a copy of the procedure with its parameters filled in; give its file.

    `base` is where the server's addresses begin. Raise Refused if a parameter or the environment does not fit.
    """
    given = runner.meant(procedure, given)
    environment = environments.load(str(given.get("environment", "sandbox")), new=procedure.describes)
    mask.know(environment.values())
    values = runner.bind(procedure, given)
    notebook = procedure.copy(values)
    forms = f"{base}runbook/"
    at = next((i for i, cell in enumerate(notebook["cells"]) if cell["id"] == "parameters-of-this-run"), 0) + 1
    declared = procedure.parameters
    told = {key: value for key, value in values.items() if key == "environment" or value != declared[key].default}
    notebook["cells"].insert(at, _next_copy(f"{forms}{procedure.name}", told))
    for cell in notebook["cells"]:
        # A key pressed by mistake must not change what runs. Whoever wants other code can add a cell, and it shows.
        cell["metadata"] |= {"editable": False, "deletable": False}
        if cell["cell_type"] == "markdown":
            to = rf"]({forms}\g<name>?{urlencode({'environment': environment.name})})"
            cell["source"] = _LINK.sub(to, "".join(cell["source"]))
    opened, identity = now(), uuid.uuid4().hex[:8]
    about = {"id": identity, "opened": opened, **runner.describe(procedure, environment, values)}
    if values.get("apply") is False:
        about["carried_out_by"] = f"{forms}{procedure.name}?{urlencode({**told, 'apply': 'true'})}"
    notebook["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "opslib": {**about, "packages": record.provenance()["packages"]},
    }
    refresh(notebook)
    file = record.path(environment.name, procedure.name, opened, identity)
    record.save(file, record.dumps(notebook))
    return file


def refresh(notebook: dict[str, Any]) -> bool:
    """Fill in what the steps and outputs say of the run so far; whether it is over, and the copy can be sealed."""
    about = notebook["metadata"]["opslib"]
    notebook["metadata"].pop("widgets", None)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    for cell in cells:
        cell["metadata"]["papermill"] = _state(cell)
    happened = record.steps(notebook)
    if not happened:
        return False
    first, end = happened[0], ending(happened)
    about["started"] = first["at"]
    about |= {key: first[key] for key in ("operator", "process", "apply", "reason", "incident") if key in first}
    if end is None or not all(cell["execution_count"] for cell in cells if _ends(cell)):
        return False
    about |= {"finished": end["at"], **_judge(end, happened)}
    for cell in cells:
        cell["outputs"] = [output for output in cell["outputs"] if _WIDGET not in output.get("data", {})]
    return True


def is_open(file: Path) -> bool:
    """Whether this is a working copy whose record is not closed: the only file under records/ that may be saved."""
    return "opened" in (record.head(file) or {}) and not ledger.is_sealed(file)


def keep(file: Path, notebook: dict[str, Any]) -> None:
    """Save what JupyterLab has of a working copy, and seal it once its run is over. Raise Refused if it was sealed."""
    with record.alone(file.parent):
        if not is_open(file):
            raise Refused(f"{file.name}: its record is closed. Open a new copy at /runbook")
        # What the copy is was settled when it was made: nothing that a browser sends may change that.
        about = record.head(file) or {}
        notebook["metadata"]["opslib"] = about
        for cell in notebook["cells"]:
            cell["metadata"].pop("trusted", None)
        with suppress(RunbookError):  # the kernel has masked what it sent; a broken file must not cost the record
            mask.know(environments.load(about["environment"]).values())
        _remember(notebook, json.loads(file.read_bytes()))
        over = refresh(notebook)
        record.save(file, record.dumps(mask.tree(notebook)))
        if over:
            ledger.seal(file)


def _next_copy(form: str, told: Mapping[str, Any]) -> dict[str, Any]:
    text = "This is a working copy; it becomes the record. "
    text += f"[Open another]({form}?{urlencode(told)}) to change a parameter."
    return {"cell_type": "markdown", "id": "another-copy", "metadata": {"tags": ["added-by-lab"]}, "source": text}


def _state(cell: dict[str, Any]) -> dict[str, Any]:
    timing = cell["metadata"].get("execution", {})
    times = {"start_time": timing.get("iopub.execute_input"), "end_time": timing.get("shell.execute_reply")}
    known = {key: value for key, value in times.items() if value}
    if any(output["output_type"] == "error" for output in cell["outputs"]):
        return {"status": "failed", **known}
    if cell["execution_count"]:
        return {"status": "completed", **known}
    return {"status": "running" if cell["outputs"] else "pending"}


def _ends(cell: dict[str, Any]) -> bool:
    return any(one["step"] == "end" for one in record.shown(cell))


def _remember(notebook: dict[str, Any], before: dict[str, Any]) -> None:
    """Keep in each cell the steps that were once saved in it, whatever has become of its outputs since."""
    kept = {cell["id"]: record.kept(cell) for cell in before["cells"]}
    for cell in notebook["cells"]:
        seen = kept.get(cell["id"], [])
        for one in record.shown(cell):
            begun = one["step"] == "change" and one["title"] not in {known["title"] for known in seen}
            if one not in seen and (begun or not one.get("progress")):
                seen.append(one)
        cell["metadata"].pop("opslib", None)
        if seen:
            cell["metadata"]["opslib"] = {"steps": seen}


def _judge(end: Step, happened: list[Step]) -> dict[str, str]:
    """Say how the run ended: as its last step says, unless the steps before it say otherwise."""
    untrue = contradiction(happened, end["outcome"]) if end["ok"] else "; ".join(standing(happened))
    if not untrue or end["outcome"] == Outcome.NEEDS_PERSON:
        return {"outcome": end["outcome"], "why": end["why"]}
    outcome = Outcome.NEEDS_PERSON if standing(happened) else Outcome.FAILED
    return {"outcome": outcome.value, "why": f"{end['why']} It says {end['outcome']}, which cannot be: {untrue}."}
