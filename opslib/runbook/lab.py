"""JupyterLab for the procedures: `python -m opslib.runbook.lab` opens copies and keeps them as records."""

# mypy: disallow-untyped-calls=False
# (jupyter_server's classes, which those here refine, are typed in part only)

import argparse
import asyncio
import json
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.contents.checkpoints import AsyncCheckpoints
from jupyter_server.services.contents.filemanager import AsyncFileContentsManager
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError
from traitlets import default

from opslib.runbook import form, ledger, listing, procedure, record, working_copy
from opslib.runbook.errors import Refused
from opslib.runbook.scratch import Scratch

PORT = 8888
SHORT = 107 - len("/run/kernel-00000000-0000-0000-0000-000000000000-ipc-5")
"""The longest folder in which a kernel's sockets can lie: the path of a socket has 107 bytes at most."""

SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"autosave": True, "autosaveInterval": 5},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"},
    "@jupyterlab/notebook-extension:tracker": {
        "recordTiming": True,
        "showEditorForReadOnlyMarkdown": False,
        "enableKernelInitNotification": True,
    },
}
"""What JupyterLab would otherwise decide: to save late, to ask for news and updates, to forget when a cell ran, and to
press the panel's button in a thread of its own while a cell runs."""

WITHOUT = (
    "@jupyterlab/apputils-extension:announcements",
    "@jupyterlab/debugger-extension",
    "@jupyterlab/extensionmanager-extension",
    "@jupyterlab/fileeditor-extension:language-server",
    "@jupyterlab/lsp-extension",
    "@jupyterlab/notebook-extension:language-server",
)
"""Parts of JupyterLab that ask the network or the server for what is not there, or stop a cell in its middle."""


class NoCheckpoints(AsyncCheckpoints):
    """No second copies of a record beside it, and no way back to an earlier state of one."""

    async def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        """Pretend, since JupyterLab insists on one."""
        return {"id": "none", "last_modified": datetime.now(UTC)}

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        """Give none."""
        return []

    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        """Refuse: a record only grows."""
        raise HTTPError(403, reason="there is no earlier state to go back to; open a new copy at /runbook")


class Contents(AsyncFileContentsManager):
    """The files as JupyterLab sees them: procedures and closed records can be read, working copies can be saved."""

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        """Save, unless this file is not to be changed here."""
        self._refuse(path)
        if model.get("type") != "notebook" and self._file(path).is_relative_to(record.folder()):
            raise HTTPError(403, reason="a record is saved as a notebook, never as text; open it as a notebook")
        return await super().save(model, path)

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename, unless a record or a procedure is at either end."""
        self._refuse(old_path, moved=True)
        self._refuse(new_path, moved=True)
        await super().rename_file(old_path, new_path)

    async def delete_file(self, path: str) -> None:
        """Delete, unless it is a procedure or holds something of a run."""
        self._refuse(path, moved=not self._unused(path))
        await super().delete_file(path)

    def mark_trusted_cells(self, nb: Any, path: str = "") -> None:
        """Trust the working copies, so that the panel of one works after a reload; what is closed is only read."""
        self.notary.mark_cells(nb, working_copy.is_open(self._file(path)))

    async def get_kernel_path(self, path: str, model: Any = None) -> str:
        """Start kernels in the root, where headless runs start theirs."""
        return ""

    def _base_model(self, path: str) -> dict[str, Any]:
        model: dict[str, Any] = super()._base_model(path)
        model["writable"] = model["writable"] and not self._closed(path)
        return model

    async def _save_notebook(self, os_path: str, nb: Any, capture_validation_error: Any = None) -> None:
        file = Path(os_path)
        if file.is_relative_to(record.folder()):
            try:
                working_copy.keep(file, nb)
            except Refused as error:  # it was sealed since this save was let in
                raise HTTPError(403, str(error), reason=str(error)) from None
        else:
            await super()._save_notebook(os_path, nb, capture_validation_error)

    def _refuse(self, path: str, *, moved: bool = False) -> None:
        why = self._closed(path)
        if moved and not why and self._file(path).is_relative_to(record.folder()):
            why = "records keep their name and place; a copy that was never started can be deleted"
        if why:
            raise HTTPError(403, why, reason=why)

    def _closed(self, path: str) -> str:
        """Why this file is not to be changed here; empty if it may be."""
        file = self._file(path)
        if file.is_relative_to(procedure.root() / "notebooks"):
            return f"this is the procedure itself; open a working copy: /runbook/{file.stem}"
        if not file.is_relative_to(record.folder()) or working_copy.is_open(file):
            return ""
        if ledger.is_sealed(file):
            return f"this record is sealed; open a new copy: /runbook/{(record.head(file) or {}).get('procedure', '')}"
        return "" if file.is_dir() else "only working copies are saved among the records; open one at /runbook"

    def _unused(self, path: str) -> bool:
        file = self._file(path)
        return file.is_file() and working_copy.is_open(file) and listing.summary(file) is None

    def _file(self, path: str) -> Path:
        return Path(os.path.abspath(self._get_os_path(path.strip("/"))))


class Kernels(KernelSpecManager):
    """Only the Python that runs this, whatever other kernels the machine has."""

    @default("kernel_dirs")
    def _no_others(self) -> list[str]:
        return []


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "opslib.runbook.lab"}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.web_app.add_handlers(".*$", form.handlers(server.base_url))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop. Nothing is read from, or left in, the person's own Jupyter folders."""
    parser = argparse.ArgumentParser(prog="python -m opslib.runbook.lab", description=__doc__)
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}, or the next that is free")
    options = parser.parse_args(arguments)
    record.folder().mkdir(mode=0o700, exist_ok=True)
    with Scratch("lab") as folder:
        _serve(options, folder)


def _serve(options: argparse.Namespace, folder: Path) -> None:
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run"}
    os.environ |= {key: str(folder / name) for key, name in (places | {"IPYTHONDIR": "ipython"}).items()}
    settings = folder / "config/labconfig"
    settings.mkdir(parents=True)
    (settings / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (settings / "page_config.json").write_text(json.dumps({"disabledExtensions": dict.fromkeys(WITHOUT, True)}))

    from jupyterlab.labapp import LabApp  # takes its folders from the environment as it is imported
    from traitlets.config import Config

    token = secrets.token_hex(24)
    config = Config(
        {
            "ServerApp": {
                "ip": "127.0.0.1",
                "port": options.port,
                "root_dir": str(procedure.root()),
                "default_url": "/runbook",
                "open_browser": not options.no_browser and _has_screen(),
                "contents_manager_class": "opslib.runbook.lab.Contents",
                "kernel_spec_manager_class": "opslib.runbook.lab.Kernels",
                "terminals_enabled": False,
                "log_level": "ERROR",
                "allow_root": True,
            },
            "IdentityProvider": {"token": token},
            "Contents": {"checkpoints_class": "opslib.runbook.lab.NoCheckpoints", "delete_to_trash": False},
            "NotebookNotary": {"db_file": ":memory:"},
            "KernelManager": {"transport": "ipc" if len(str(folder)) <= SHORT else "tcp"},
            "LabApp": {
                "default_url": "/runbook",
                "news_url": None,
                "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
                "extension_manager": "readonly",
                "log_level": "ERROR",
            },
        }
    )
    server = LabApp.make_serverapp(jpserver_extensions={"jupyterlab": True, "opslib.runbook.lab": True}, config=config)
    server.initialize([], starter_extension="lab", find_extensions=False)
    said = (
        f"Procedures: http://127.0.0.1:{server.port}/runbook?token={token}\n"
        "Ctrl-C ends it. A run that is not finished by then is listed as interrupted."
    )
    server.io_loop.asyncio_loop.set_exception_handler(_report)
    server.io_loop.add_callback(lambda: print(said, flush=True))  # once it answers, not before
    server.start()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a task has failed with, but not that a page went away while it was being told something."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def _has_screen() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main()
