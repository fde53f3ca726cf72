"""The kernel of a headless run: started at once, spoken to over IPC, ended without waiting for it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.runbook.errors import RunbookError
from opslib.runbook.scratch import Scratch

if TYPE_CHECKING:
    from jupyter_client.asynchronous.client import AsyncKernelClient

# No history file: a run leaves nothing behind but its record.
ARGUMENTS = ("--HistoryManager.enabled=False", "--IPKernelApp.quiet=True")


class Kernel:
    """One IPython kernel, in the Python that runs this, its sockets in a folder that only this user can open."""

    def __init__(self, *, run: str, record: Path, cwd: Path) -> None:
        self._client: AsyncKernelClient | None = None
        self._scratch = Scratch("kernel")  # its name is short, for a socket's path of 107 bytes
        self._folder = self._scratch.path
        self._file = self._folder / "kernel.json"
        connection = {
            "transport": "ipc",
            "ip": str(self._folder / "s"),
            **{f"{name}_port": i for i, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)},
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
        }
        self._file.write_text(json.dumps(connection))
        self._errors = (self._folder / "stderr").open("wb")
        hears, self._answers = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(self._file), *ARGUMENTS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            cwd=cwd,
            # In a session of its own: Ctrl-C in the terminal is for the runner, which passes it on once.
            start_new_session=True,
            pass_fds=[hears],
            env={
                **os.environ,
                "JPY_PARENT_PID": str(os.getpid()),  # the kernel ends by itself when its runner is killed
                "OPSLIB_RUN": run,
                "OPSLIB_RECORD": str(record),
                "OPSLIB_SAVED": str(hears),
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )
        os.close(hears)

    async def client(self, seconds: float = 60) -> "AsyncKernelClient":
        """Give a client once the kernel answers. Raise RunbookError, with what it said, if it does not."""
        from jupyter_client.asynchronous.client import AsyncKernelClient

        ends = asyncio.get_running_loop().time() + seconds
        while not (self._folder / "s-1").exists():  # connecting earlier costs ZeroMQ a retry
            if self.process.poll() is not None or asyncio.get_running_loop().time() > ends:
                said = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()[-5:]
                raise RunbookError("the kernel did not start: " + ("\n".join(said) or f"no sign in {seconds:g} s"))
            await asyncio.sleep(0.005)
        client = self._client = AsyncKernelClient(connection_file=str(self._file))
        client.load_connection_file()
        client.start_channels(hb=False)
        client.allow_stdin = False
        try:
            await client.wait_for_ready(timeout=seconds)
        except RuntimeError as error:
            raise RunbookError(f"the kernel did not start: {error}") from None
        return client

    def close(self) -> None:
        """End the kernel, and let go of the sockets to it: what still waits to be sent would hold up the process."""
        self.end()
        if self._client is not None:
            self._client.stop_channels()
            self._client.context.destroy(linger=0)
            self._client = None

    def answer(self, saved: bool) -> None:
        """Tell the kernel, which waits for it, whether the change that it shows as begun is in the record."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._answers, b"y" if saved else b"n")

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        """Wait until the process is gone; give its exit code."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.1)
        return code

    def end(self) -> None:
        """Kill the kernel with the commands that it started, and remove its folder."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if not self._errors.closed:
            self._errors.close()
            os.close(self._answers)
        self._scratch.remove()
