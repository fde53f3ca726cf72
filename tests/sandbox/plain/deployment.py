"""The plain stand-in as a whole: started beside the first, whose servers it uses, asked, stopped for certain."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg

from .. import process, toolchain
from ..credentials import Credentials as Shared, write_private
from ..errors import SandboxError
from ..layout import CREDENTIALS as SHARED
from ..lock import exclusively
from ..state import State
from . import account, checkout, database, firebase, pm2, running, seed
from .credentials import Credentials
from .layout import ADMIN, API, CREDENTIALS, DOTENV, GOOGLE, STARTED, STATE

REMINDER_SECONDS = 300
"""How often the API looks for reminders that are due, where nothing else is asked for."""


def status() -> list[State]:
    """Ask what is the plain stand-in's own how it is; nothing if it was not started."""
    if not STARTED.exists():
        return []
    google, api = firebase.part(), pm2.processes()
    found = google.process()
    problem = google.problem() if found else "not running"
    return [
        State("plain google_server", GOOGLE, (found.pid,) if found else (), problem),
        State("plain api", API, tuple(one.pid for one in api), pm2.problem() if api else "not running"),
    ]


def start(instances: int = 1, *, options: tuple[str, ...] = (), reminder_seconds: float = REMINDER_SECONDS) -> bool:
    """Start it beside the first, which must run; False if it was ready already, in this way.

    More `instances` than one are a cluster; `options` are pm2's own, as `--time`.
    """
    if not SHARED.exists():
        raise SandboxError("the stand-in is not running: start it first, the plain one uses its servers")
    toolchain.install()
    with exclusively():
        if _started(instances, options) and not any(state.problem for state in status()):
            return False
        _stop()
        _refuse_taken_ports()
        try:
            _start(instances, options, reminder_seconds)
        except BaseException:
            _stop()
            raise
        return True


def _started(instances: int, options: tuple[str, ...]) -> bool:
    how = json.loads(STARTED.read_text()) if STARTED.exists() else {}
    return (how.get("instances"), how.get("options")) == (instances, list(options))


def _start(instances: int, options: tuple[str, ...], reminder_seconds: float) -> None:
    ADMIN.mkdir(parents=True)
    shared, credentials = Shared.load(), Credentials()
    credentials.save()  # so that a start that is cut short can be undone
    made = seed.payments()
    with ThreadPoolExecutor() as pool:
        parts = [
            pool.submit(account.create_at_aws, shared, credentials),
            pool.submit(_start_google, credentials),
            pool.submit(checkout.create),
            pool.submit(database.create, shared, credentials),
            pool.submit(_start_stripe, credentials, made),
            pool.submit(pm2.start_daemon),
        ]
        for part in parts:
            part.result()
    with database.connect(credentials) as connection:
        seed.fill(connection, credentials, made)
    credentials.save()
    _write_login(credentials)
    write_private(DOTENV, credentials.dotenv(shared, reminder_seconds=reminder_seconds))
    pm2.start(instances, options)


def _start_google(credentials: Credentials) -> None:
    firebase.create(credentials)
    firebase.part().start()


def _start_stripe(credentials: Credentials, made: list[seed.Payment]) -> None:
    credentials.seeded_intents = seed.make_intents(made)
    account.create_at_stripe(credentials)


def _write_login(credentials: Credentials) -> None:
    """Write what it takes to sign in at Firebase, for whoever may."""
    login = {
        "email": credentials.login_email,
        "password": credentials.login_password,
        "key": credentials.firebase_web_key,
    }
    write_private(ADMIN / "login.json", json.dumps(login) + "\n")


def stop() -> bool:
    """Stop it, leave the first as it was without it, and delete its state; False if there was nothing to stop."""
    with exclusively():
        return _stop()


def _stop() -> bool:
    if not STATE.exists():
        return False
    ran = running.end()
    with suppress(OSError, SandboxError, psycopg.Error):
        if SHARED.exists():
            database.drop(Shared.load())
    if CREDENTIALS.exists() and SHARED.exists():
        account.leave_stripe(Credentials.load())
    shutil.rmtree(STATE, ignore_errors=True)
    return ran


def _refuse_taken_ports() -> None:
    for port in (GOOGLE, API):
        if holder := process.listener(port):
            raise SandboxError(
                f"port {port} is taken by {process.describe(holder)}: end that process, then start again"
            )
