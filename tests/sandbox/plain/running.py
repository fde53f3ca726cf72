"""What runs of the plain stand-in: its API under PM2, Google's server, and what faults have started."""

import psutil

from .. import process
from . import client, firebase, pm2


def helpers() -> list[psutil.Process]:
    """Return the processes that faults have started."""
    return list(filter(None, map(process.find, client.COMMANDS)))


def end() -> bool:
    """End all of it; False if nothing ran."""
    left = [*helpers(), *pm2.processes()]
    google = firebase.part()
    ran = bool(left) or google.process() is not None
    process.end(helpers())
    pm2.stop()
    google.stop()
    return ran
