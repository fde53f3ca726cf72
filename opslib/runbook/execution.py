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
from nbclient.exceptions import CellExecutionComplete, CellExecutionError, DeadKernelError  # noqa: E402
from nbformat import NotebookNode, from_dict  # noqa: E402

if _absent is None:
    del sys.modules[_CHECKER]

from opslib.runbook import ledger, record  # noqa: E402
from opslib.runbook.environment import Limits  # noqa: E402
from opslib.runbook.errors import FOUND, Outcome, RunbookError  # noqa: E402
from opslib.runbook.kernel import Kernel  # noqa: E402
from opslib.runbook.mask import mask  # noqa: E402
from opslib.runbook.step import GOOD, Step, contradiction, ending, findings, is_step, now, standing  # noqa: E402

SAVE_SHARE = 10
"""A save that nothing demands waits until this many times the length of the last one has gone by."""
SAVE_EVERY = 1.0  # seconds, at the least

LOST_AFTER = 2.0
"""How long a reply may lag behind the sign that its cell is over, in seconds."""

WITHOUT_END = "The notebook came to its end without run.finish()."
STOP = "from opslib.runbook.run import stop\n\nstop({!r})"


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
        self.findings: list[Step] = []
        """What the run has found wrong, the worst first."""
        self.sealed = False
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
        self._unread = 0
        self._saved_at = self._save_took = 0.0
        for cell in self.notebook.cells:
            cell.metadata.pop("opslib", None)
        for cell in self._code_cells():
            cell.metadata["papermill"] = from_dict({"status": "pending"})
        record.sweep(path.parent)
        self.save()

    def save(self, *, durable: bool = True) -> None:
        """Write the record as it stands."""
        begun = time.monotonic()
        record.save(self.path, record.dumps(self.notebook), durable=durable)
        self._unsaved = False
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - begun

    def stop(self, number: signal.Signals) -> None:
        """Stop the cell that runs now and begin no other; what the run has changed is undone."""
        self.stopped_by = self.stopped_by or number
        self._reason = self._reason or f"Stopped by {signal.Signals(number).name}."
        self._stop.set()

    def refuse(self, why: str) -> Path:
        """Close the record of a run that was refused before it had a kernel."""
        return self._close(Outcome.REFUSED, why)

    @property
    def exit_code(self) -> int:
        """How the process that ran it ends."""
        if self.outcome is Outcome.INTERRUPTED and self.stopped_by:
            return 128 + self.stopped_by
        return FOUND if self.findings and self.outcome in GOOD else self.outcome.exit_code

    async def run(self, kernel: Kernel) -> Path:
        """Execute all cells, or as many as can be, and close the record. Give its path."""
        died = ""
        try:
            client = _Client(self.notebook, kernel, self._on_output, self._on_unread)
            client.kc = await kernel.client()
            for index, cell in enumerate(self.notebook.cells):
                if cell.cell_type != "code" or not cell.source.strip():
                    continue
                if self._stop.is_set():
                    break
                if not await self._execute(client, cell, index, *self._time()) and not self._verified():
                    break
            happened = record.steps(self.notebook)
            if standing(happened) and not ending(happened):
                await self._undo(client)
        except DeadKernelError:
            died = f"The kernel died ({_exit(await kernel.ended())})."
        except RunbookError as error:
            died = str(error)
        except Exception as error:  # whatever it is, the record must be closed and say it
            died = f"The runner failed: {type(error).__name__}: {error}"
        finally:
            kernel.close()
        return self._close(*self._judge(died))

    def _time(self) -> tuple[str, float]:
        """Say whose time is up first, the cell's or the run's, and the seconds until then."""
        left = self._ends - time.monotonic()
        return ("run", left) if left < self._limits.cell else ("cell", self._limits.cell)

    async def _execute(self, client: "_Client", cell: NotebookNode, index: int, whose: str, seconds: float) -> bool:
        """Execute one cell; whether the next one may follow."""
        if client.kernel.process.poll() is not None:
            raise DeadKernelError
        state = cell.metadata["papermill"]
        started = now()
        state.update(status="running", start_time=started)
        if "apply" in cell.metadata.get("tags", ()):
            try:
                self.save()
            except RunbookError as error:  # what cannot be recorded is not done
                self._reason = str(error)
                cell.metadata["papermill"] = from_dict({"status": "pending"})
                return False
        self._unsaved = True
        status = "failed"
        try:
            await self._in_time(client, cell, index, whose, seconds)
            status = "completed"
        except CellExecutionError:
            pass
        except DeadKernelError:
            if not client.lost_reply:
                raise
        finally:
            status = "interrupted" if status == "failed" and self._reason else status
            ended = now()
            state.update(status=status, end_time=ended, duration=_seconds(started, ended))
            cell.outputs = [from_dict(mask.tree(o)) if o.output_type == "stream" else o for o in cell.outputs]
            self._save_if_due()
        return status == "completed"

    async def _in_time(self, client: "_Client", cell: NotebookNode, index: int, whose: str, seconds: float) -> None:
        """Execute a cell; interrupt it when its time, the run's time or somebody's patience is up."""
        task = asyncio.ensure_future(client.async_execute_cell(cell, index))
        await self._wait(task, seconds)
        if not task.done():
            if not self._stop.is_set():
                self._late = self._late or whose
                self._reason = self._reason or f"The {whose} was over its time of {getattr(self._limits, whose):g} s."
            self._stop.clear()
            ends = time.monotonic() + self._limits.undo
            while cell.execution_count is None and not task.done() and time.monotonic() < ends:
                await asyncio.sleep(0.01)  # a kernel that has not begun the cell ignores an interrupt
            client.kernel.interrupt()
            # The cell now undoes what the run has changed; a second signal cuts even that short.
            await self._wait(task, self._limits.undo)
            self._stop.set()
            if not task.done():
                self._reason += " It did not stop and was killed."
                client.kernel.end()
        await task

    async def _wait(self, task: "asyncio.Future[Any]", seconds: float) -> None:
        """Wait until the task is done, somebody stops the run, or time is up."""
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()

    async def _undo(self, client: "_Client") -> None:
        """Have the kernel undo what is in force, in a cell that the record shows as added."""
        cell = from_dict(
            {
                "cell_type": "code",
                "id": "stop-of-this-run",
                "metadata": {"tags": ["added-by-runner"], "papermill": {"status": "pending"}},
                "source": STOP.format("It was interrupted." if self._reason else WITHOUT_END),
                "outputs": [],
                "execution_count": None,
            }
        )
        self.notebook.cells.append(cell)
        self._stop.clear()
        await self._execute(client, cell, len(self.notebook.cells) - 1, "undo", self._limits.undo)

    def _judge(self, died: str) -> tuple[Outcome, str]:
        """Say how the run ended, from what its steps say and from what happened to it."""
        happened = record.steps(self.notebook)
        end, changed = ending(happened), standing(happened)
        why = " ".join(part for part in (self._reason, died, end["why"] if end else "", self._doubt()) if part)
        if end and end["ok"]:
            untrue = contradiction(happened, end["outcome"])
            if not untrue:
                said = why if end.get("cut_short") else " ".join(filter(None, (end["why"], self._doubt())))
                return Outcome(end["outcome"]), said
            why = f"{why} It was said to have ended as {end['outcome']}, which cannot be: {untrue}."
            return Outcome.NEEDS_PERSON if changed or self._unread else Outcome.FAILED, why
        if changed and self._verified():
            return Outcome.APPLIED, f"{why} What was changed is verified and stays. The run did not come to its end."
        if changed and not end:
            return Outcome.NEEDS_PERSON, f"{why} Changed, not verified, not undone: {'; '.join(changed)}."
        if changed or self._unread or (end and end["outcome"] == Outcome.NEEDS_PERSON):
            return Outcome.NEEDS_PERSON, why
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
        if any(one["step"] == "start" for one in happened):
            return Outcome.FAILED, WITHOUT_END
        return Outcome.PLANNED, "every cell ran, and none of them began a run"

    def _doubt(self) -> str:
        """Say that the kernel has sent what cannot be taken for what it claims to be: it counts for nothing."""
        if not self._unread:
            return ""
        return f"Of what the kernel sent, {self._unread} could not be read: none of that counts as a step of the run."

    def _close(self, outcome: Outcome, why: str) -> Path:
        self.outcome, self.why = outcome, mask.text(why)
        self._about.update(finished=now(), outcome=outcome.value, why=self.why)
        self.findings = findings(record.steps(self.notebook))
        self._about["findings"] = [{"what": one["title"], "next": one["note"]} for one in self.findings]
        self._unsaved = True
        try:
            self.save()
            ledger.seal(self.path)
            self.sealed = True
        except RunbookError as error:
            self.why += f" {error}"
            if self._unsaved:
                self._save_elsewhere()
        return self.path

    def _save_elsewhere(self) -> None:
        """Save a record that cannot lie where it should where there is room: a full disk must not cost it."""
        try:
            self.path = Path(tempfile.mkdtemp(prefix="record-")) / self.path.name
            self.save()
            self.why += f" It is in {self.path} instead, not sealed."
        except (OSError, RunbookError) as error:
            self.why += f" Nor can it be saved elsewhere: {error}"

    def _on_output(self, said: object, cell: NotebookNode) -> bool:
        """Take note of an output, and of the step that it says it is; whether that is on disk now."""
        self._unsaved = True
        if said is None:
            self._save_if_due()
            return False
        if not is_step(said):
            return self._on_unread()
        self._on_step(said)
        if said.get("progress"):  # what the next one replaces is not worth a save
            return False
        kept = cell.metadata.setdefault("opslib", from_dict({"steps": []})).steps
        # What the outputs become, the kernel decides. The last step repeats all before it, which are here already.
        kept.append(from_dict({key: value for key, value in said.items() if key != "steps"}))
        if said["step"] not in ("change", "undo"):
            self._save_if_due()
            return not self._unsaved
        with suppress(RunbookError):  # the last save says so
            self.save()
        if self._unsaved and said.get("state") == "applying":
            kept.pop()  # the kernel is told so, and does not begin it
        return not self._unsaved

    def _on_unread(self) -> bool:
        """Take note of a message that cannot be read."""
        self._unread += 1
        self._unsaved = True
        self._save_if_due()
        return False

    def _save_if_due(self) -> None:
        waited = time.monotonic() - self._saved_at
        if self._unsaved and waited > max(SAVE_EVERY, SAVE_SHARE * self._save_took):
            with suppress(RunbookError):  # the last save says so
                self.save(durable=False)

    def _code_cells(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code" and cell.source.strip()]

    def _verified(self) -> bool:
        """Whether the last step says that nothing is left to verify: what fails from there on undoes nothing."""
        happened = record.steps(self.notebook)
        return bool(happened) and bool(happened[-1].get("verified"))


class _Client(NotebookClient):
    """nbclient, told of each step as it comes, and of the kernel's death by the process itself."""

    def __init__(
        self,
        notebook: NotebookNode,
        kernel: Kernel,
        on_output: Callable[[object, NotebookNode], bool],
        on_unread: Callable[[], bool],
    ) -> None:
        super().__init__(notebook, timeout=None, iopub_timeout=60, raise_on_iopub_timeout=True, record_timing=False)
        self.kernel = kernel
        self.lost_reply = False
        self._on_output = on_output
        self._on_unread = on_unread

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        said, read, output = None, True, None
        try:
            content = msg["content"] = mask.tree(msg["content"])
            if content.get("execution_state") == "idle":
                # A kernel that is interrupted between a cell's end and its reply never sends the reply.
                asyncio.get_running_loop().call_later(LOST_AFTER, self._give_up, self.task_poll_for_reply)
            metadata = content.get("metadata")
            said = metadata.get("opslib") if isinstance(metadata, dict) else None
            output = super().process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception:  # a kernel can send anything: none of that may keep the run from its end, or from its undo
            read = self._on_unread()
        saved = False
        if read and msg["msg_type"] not in ("status", "execute_input"):
            saved = self._on_output(said, cell)
        if isinstance(said, dict) and said.get("state") == "applying" and not said.get("progress"):
            self.kernel.answer(saved)
        return output

    def _give_up(self, reply: "asyncio.Future[Any] | None") -> None:
        self.lost_reply = reply is not None and reply.cancel()

    async def _async_poll_kernel_alive(self) -> None:
        await self.kernel.ended()
        await asyncio.sleep(0.2)  # what it said before it died may still be on its way
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
