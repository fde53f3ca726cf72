"""The session that a run happens in: a runner's kernel, a person's in JupyterLab, or no kernel at all."""

import getpass
import os
from pathlib import Path
from typing import Any

from opslib.runbook import procedure
from opslib.runbook.step import shell


def headless() -> bool:
    """Whether a runner, not a person, executes the cells."""
    return "OPSLIB_RECORD" in os.environ


def copy() -> Path | None:
    """The working copy that JupyterLab runs this kernel for."""
    session = Path(os.environ.get("JPY_SESSION_NAME", ""))
    return session if session.is_relative_to(procedure.root() / "records") else None


def recorded() -> bool:
    """Wait until the runner has saved what was shown; False if it cannot. A person's cells have none to wait for."""
    answers = os.environ.get("OPSLIB_SAVED")
    return answers is None or os.read(int(answers), 1) == b"y"


def operator() -> str:
    """Who runs this: the login name, behind it the one that was used to become another user."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = f"uid {os.getuid()}"
    before = os.environ.get("SUDO_USER", login)
    return login if before == login else f"{before} as {login}"


def variables() -> dict[str, Any]:
    """Give the variables of this kernel, among which are the parameters."""
    kernel = shell()
    return {} if kernel is None else dict(kernel.user_ns)


def sources() -> list[str]:
    """Give the cells that this kernel was given so far, as they were typed."""
    kernel = shell()
    return [] if kernel is None or kernel.history_manager is None else list(kernel.history_manager.input_hist_raw)
