"""The lock on an environment: one run at a time changes it, and a dead one blocks nobody."""

import json
import os
from pathlib import Path
from typing import IO, Any

from opslib.runbook.errors import Held, Refused


def hold(path: Path, holder: dict[str, Any]) -> IO[str]:
    """Take the lock and say who holds it; it is free again when the file is closed or the process gone.

    Raise Held, with the holder's words, while another process has it.
    """
    import portalocker  # only a run that applies needs it

    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path}: cannot be opened for the environment's lock: {error.strerror}") from None
    try:
        portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        with file:
            raise Held(_held(file.read())) from None
    file.seek(0)
    file.truncate()
    json.dump(holder, file)
    file.flush()
    return file


def _held(text: str) -> str:
    try:
        who = json.loads(text)
        return (
            f"another run holds this environment: {who['procedure']}, started by {who['operator']} at {who['since']} "
            f"(process {who['pid']}, record {who['record'] or 'not known'}). Wait for it, or stop that process."
        )
    except (ValueError, KeyError, TypeError):  # the holder has just taken it and not written its name yet
        return "another run has just taken this environment. Wait for it; `runbook records` names it."
