"""The papermill engine `runbook`: `papermill --engine runbook notebooks/NAME.ipynb RECORD -p …`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click import ClickException
from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from papermill.engines import Engine
from papermill.iorw import LocalHandler, papermill_io

from opslib.runbook import ledger, procedure, record, runner
from opslib.runbook.errors import Outcome, Refused, RunFailed
from opslib.runbook.procedure import Procedure


class RunbookEngine(Engine):  # type: ignore[misc]
    """Runs a procedure as `runbook run` does, into the file that papermill was given."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None, **options: Any
    ) -> NotebookNode:
        """Execute, record and seal. Raise RunFailed where the record says that it did not end well, or can lie nowhere.

        papermill has written nothing by then. What is no file (`-`, `s3://…`, a device) it writes itself at the end,
        and the record lies where records lie.
        """
        about = nb.metadata.get("papermill", {})
        output = output_path or about.get("output_path")  # which papermill keeps back if it is to save only at the end
        path = _file(output) if output else None
        try:
            read = procedure.read(Path(options["input_path"]))
            given = about.get("parameters", {}) | _texts(read, about.get("parameters", {}))
            execution = run_sync(runner.run)(read, given, path=path)
        except Refused as refusal:
            refused = Outcome.REFUSED
            raise _Failed(f"{refused}: {refusal}", refused, refused.exit_code) from None
        if execution.exit_code or not execution.sealed:
            raise _Failed(f"{execution.outcome}: {execution.why}", execution.outcome, execution.exit_code)
        if path:
            _files.returned.add(output)
            papermill_io.register(output, _files)
        return execution.notebook


def _texts(read: Procedure, given: Mapping[str, Any]) -> dict[str, str]:
    """Give, as they were typed, texts that papermill took for numbers: a digest like 77950e8, an id like 007."""
    taken = {name for name, value in given.items() if not isinstance(value, str)}
    texts = {name for name, one in read.parameters.items() if one.type is str} & taken
    words = zip(sys.argv, sys.argv[1:], sys.argv[2:], strict=False)
    return {name: text for option, name, text in words if option in ("-p", "--parameters") and name in texts}


class _Failed(RunFailed, ClickException):
    """Has papermill's command end as `runbook run` does: with the sentence alone, and the exit code of the outcome."""

    def __init__(self, message: str, outcome: Outcome, exit_code: int) -> None:
        super().__init__(message, outcome)
        self.exit_code = exit_code or Outcome.FAILED.exit_code  # type: ignore[misc]  # click asks the instance


class _Files(LocalHandler):  # type: ignore[misc]
    """Writes files as papermill does, but over no sealed record, whichever engine papermill runs with."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: set[object] = set()
        """Paths of records that the engine has sealed, and that papermill will write once more."""

    def write(self, text: str, path: str) -> None:
        if path in self.returned:
            self.returned.discard(path)
        elif ledger.is_sealed(Path(path)):
            raise Refused(f"{path}: is a sealed record, and nothing writes over it. Give the output another name.")
        else:
            super().write(text, path)


def _file(output: str) -> Path | None:
    path = Path(output).resolve()
    return None if output == "-" or "://" in output or (path.exists() and not path.is_file()) else path


_files = _Files()
# papermill loads its engines as it is imported, and asks for a handler by how the path begins.
papermill_io.register((f"{record.folder()}/", f"{os.path.relpath(record.folder())}/"), _files)
