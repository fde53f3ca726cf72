"""The papermill engine `runbook`: `papermill --engine runbook notebooks/NAME.ipynb RECORD -p …`."""

from pathlib import Path
from typing import Any

from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from papermill.engines import Engine
from papermill.iorw import papermill_io

from opslib import procedure, runner
from opslib.errors import Outcome, RunFailed


class RunbookEngine(Engine):  # type: ignore[misc]
    """Runs a procedure as `runbook run` does, into the file that papermill was given."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None, **options: Any
    ) -> NotebookNode:
        """Execute, record and seal. Raise RunFailed where the record says that it did not end well."""
        given = nb.metadata.get("papermill", {}).get("parameters", {})
        path = Path(output_path).resolve() if output_path else None
        if output_path:
            papermill_io.register(output_path, _Sealed())
        execution = run_sync(runner.run)(procedure.read(Path(options["input_path"])), given, path=path)
        if execution.outcome not in (Outcome.PLANNED, Outcome.APPLIED) or not execution.sealed:
            raise RunFailed(f"{execution.outcome}: {execution.why}", execution.outcome)
        return execution.notebook


class _Sealed:
    """Keeps papermill from writing over a record that the engine has sealed."""

    def write(self, text: str, path: str) -> None:
        pass
