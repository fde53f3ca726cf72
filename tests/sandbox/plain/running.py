"""What runs of the plain stand-in: its API under PM2, Google's server, and what faults have started."""

import psutil

from .. import process
from . import client, firebase, pm2
from .layout import STATE


def helpers() -> list[psutil.Process]:
    """Return the processes that faults have started."""
    return list(filter(None, map(process.find, client.COMMANDS)))


def end() -> bool:
    """End all of it; False if nothing ran."""
    if not STATE.exists():  # made before anything is started, deleted after all has ended
        return False
    google, started = firebase.part(), helpers()
    ran = bool([*started, *pm2.processes()]) or google.process() is not None
    process.end(started)
    pm2.stop()
    google.stop()
    return ran
