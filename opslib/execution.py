"""The execution of a notebook: cell by cell, into a record that is true however it ends."""

import asyncio
import datetime
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# An optional checker of web addresses in JSON schemas, which takes 1.3 s to import and which no notebook needs.
_CHECKER = "rfc3987_syntax"
_absent = sys.modules.setdefault(_CHECKER, None)  # type: ignore[arg-type]

from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError, DeadKernelError  # noqa: E402
from nbformat import NotebookNode, from_dict  # noqa: E402

if _absent is None:
    del sys.modules[_CHECKER]

from opslib import record  # noqa: E402
from opslib.environment import Limits  # noqa: E402
from opslib.errors import Outcome, RunbookError  # noqa: E402
from opslib.kernel import Kernel  # noqa: E402
from opslib.mask import mask  # noqa: E402
from opslib.step import Step, now  # noqa: E402

SAVE_SHARE = 10
"""A save that nothing demands waits until this many times the length of the last one has gone by."""
SAVE_EVERY = 1.0  # seconds, at the least

STOP = "from opslib.run import stop\n\nstop()"


class Execution:
    """One run of a notebook, from its first save to its sealed record."""

    def __init__(
        self,
        notebook: dict[str, Any],
        about: dict[str, Any],
        path: Path,
        limits: Limits,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.path = path
        self.outcome = Outcome.FAILED
        self.why = ""
        self.stopped_by: signal.Signals | None = None
        self.notebook: NotebookNode = from_dict(notebook)
        self.notebook.metadata["opslib"] = about = from_dict({**about, **record.provenance()})
        self._about = about
        self._limits = limits
        self._on_step = on_step
        self._ends = time.monotonic() + limits.run
        self._stop = asyncio.Event()
        self._reason = ""
        self._late = ""
        self._unsaved = False
        self._saved_at = self._save_took = 0.0
        for cell in self._code_cells():
            cell.metadata["papermill"] = from_dict({"status": "pending"})
        self.save()

    def save(self, *, durable: bool = True) -> None:
        """Write the record as it stands."""
        begun = time.monotonic()
        record.save(self.path, record.dumps(self.notebook), durable=durable)
        self._unsaved = False
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - begun

    def refuse(self, why: str) -> Path:
        """Close the record of a run that was refused before it had a kernel."""
        return self._close(Outcome.REFUSED, why)

    async def run(self, kernel: Kernel) -> Path:
        """Execute all cells, or as many as can be, and close the record. Give its path."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        with suppress(RuntimeError, ValueError):  # not in the main thread: then the caller has the signals
            for number in signals:
                loop.add_signal_handler(number, self._on_signal, number)
        died = ""
        try:
            client = _Client(self.notebook, kernel, self._on_output)
            client.kc = await kernel.client()
            for index, cell in enumerate(self.notebook.cells):
                if cell.cell_type != "code" or not cell.source.strip():
                    continue
                if self._stop.is_set() or not await self._execute(client, cell, index):
                    break
            if self._changed() and not self._ended():
                await self._undo(client, kernel)
        except DeadKernelError:
            died = f"The kernel died ({_exit(await kernel.ended())})."
        except RunbookError as error:
            died = str(error)
        finally:
            kernel.end()
            for number in signals:
                with suppress(RuntimeError, ValueError):
                    loop.remove_signal_handler(number)
        return self._close(*self._judge(died))

    async def _execute(self, client: "_Client", cell: NotebookNode, index: int) -> bool:
        """Execute one cell; whether the next one may follow."""
        state = cell.metadata["papermill"]
        state.update(status="running", start_time=now())
        if "apply" in cell.metadata.get("tags", ()):
            self.save()
        self._unsaved = True
        try:
            await self._in_time(client, cell, index)
            state["status"] = "completed"
        except CellExecutionError:
            state["status"] = "interrupted" if self._reason else "failed"
        except DeadKernelError:
            state["status"] = "interrupted" if self._reason else "failed"
            raise
        finally:
            ended = now()
            state.update(end_time=ended, duration=_seconds(state["start_time"], ended))
            cell.outputs = [from_dict(mask.tree(o)) if o.output_type == "stream" else o for o in cell.outputs]
            self._save_if_due()
        return bool(state["status"] == "completed")

    async def _in_time(self, client: "_Client", cell: NotebookNode, index: int) -> None:
        """Execute a cell; interrupt it when its time, the run's time or somebody's patience is up."""
        task = asyncio.ensure_future(client.async_execute_cell(cell, index))
        stop = asyncio.ensure_future(self._stop.wait())
        left = self._ends - time.monotonic()
        await asyncio.wait({task, stop}, timeout=min(self._limits.cell, left), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            if not self._stop.is_set():
                self._late = "run" if left < self._limits.cell else "cell"
                limit = self._limits.run if self._late == "run" else self._limits.cell
                self._reason = f"The {self._late} was over its time of {limit:g} s."
            self._stop.clear()
            client.kernel.interrupt()
            # The cell now undoes what the run has changed; a second signal cuts even that short.
            again = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({task, again}, timeout=self._limits.undo, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            self._stop.set()
            if not task.done():
                client.kernel.end()
        await task

    async def _undo(self, client: "_Client", kernel: Kernel) -> None:
        """Have the kernel undo what is in force, in a cell that the record shows as added."""
        cell = from_dict(
            {
                "cell_type": "code",
                "id": "stop-of-this-run",
                "metadata": {"tags": ["added-by-runner"], "papermill": {"status": "pending"}},
                "source": STOP,
                "outputs": [],
                "execution_count": None,
            }
        )
        self.notebook.cells.append(cell)
        self._stop.clear()
        self._ends = time.monotonic() + self._limits.undo
        await self._execute(client, cell, len(self.notebook.cells) - 1)

    def _judge(self, died: str) -> tuple[Outcome, str]:
        """Say how the run ended, from what its steps say and from what happened to it."""
        end = self._ended()
        changed = self._changed()
        why = " ".join(part for part in (self._reason, died, end["why"] if end else "") if part)
        if (end and end["outcome"] == Outcome.NEEDS_PERSON) or (changed and not (end and end["ok"])):
            left = f" Changed, not verified, not undone: {'; '.join(changed)}." if changed else ""
            return Outcome.NEEDS_PERSON, why if end else why + left
        if self.stopped_by or self._late == "run":
            return Outcome.INTERRUPTED, why
        if end:
            return Outcome(end["outcome"]), why
        if died or self._reason:
            return Outcome.FAILED, why
        cells = self._code_cells()
        broken = next((c for c in cells if c.metadata["papermill"]["status"] not in ("completed", "pending")), None)
        if broken is not None:
            return Outcome.FAILED, _error(broken)
        if any(one["step"] == "start" for one in record.steps(self.notebook)):
            return Outcome.FAILED, "The notebook came to its end without run.finish()."
        return Outcome.PLANNED, "every cell ran, and none of them began a run"

    def _close(self, outcome: Outcome, why: str) -> Path:
        self.outcome, self.why = outcome, mask.text(why)
        self._about.update(finished=now(), outcome=outcome.value, why=self.why)
        try:
            self.save()
        except RunbookError as error:
            # A full disk must not cost the record: what cannot lie where it should lies where it can.
            self.path = Path(tempfile.mkdtemp(prefix="record-")) / self.path.name
            self.why += f" {error} It is in {self.path} instead, not sealed."
            self.save()
            return self.path
        record.seal(self.path)
        return self.path

    def _on_signal(self, number: signal.Signals) -> None:
        self.stopped_by = self.stopped_by or number
        self._reason = self._reason or f"Stopped by {signal.Signals(number).name}."
        self._stop.set()

    def _on_output(self, step: Step | None) -> None:
        self._unsaved = True
        if step is not None:
            self._on_step(step)
            if step["step"] in ("change", "undo"):
                self.save()
                return
        self._save_if_due()

    def _save_if_due(self) -> None:
        waited = time.monotonic() - self._saved_at
        if self._unsaved and waited > max(SAVE_EVERY, SAVE_SHARE * self._save_took):
            with suppress(RunbookError):  # the next save, or the last one, says so
                self.save(durable=False)

    def _code_cells(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code" and cell.source.strip()]

    def _changed(self) -> list[str]:
        return record.standing(record.steps(self.notebook))

    def _ended(self) -> Step | None:
        return next((one for one in record.steps(self.notebook) if one["step"] == "end"), None)


class _Client(NotebookClient):
    """nbclient, told of each step as it comes, and of the kernel's death by the process itself."""

    def __init__(self, notebook: NotebookNode, kernel: Kernel, on_output: Callable[[Step | None], None]) -> None:
        super().__init__(notebook, timeout=None, raise_on_iopub_timeout=True, record_timing=False)
        self.kernel = kernel
        self._on_output = on_output

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        msg["content"] = mask.tree(msg["content"])
        output = super().process_message(msg, cell, cell_index)
        if msg["msg_type"] not in ("status", "execute_input"):
            metadata = msg["content"].get("metadata") or {}
            self._on_output(metadata.get("opslib"))
        return output

    async def _async_poll_kernel_alive(self) -> None:
        await self.kernel.ended()
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()


def _seconds(start: str, end: str) -> float:
    begun, ended = (datetime.datetime.fromisoformat(time) for time in (start, end))
    return round((ended - begun).total_seconds(), 3)


def _exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _error(cell: NotebookNode) -> str:
    errors = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
    return errors[-1] if errors else "A cell did not end well."
