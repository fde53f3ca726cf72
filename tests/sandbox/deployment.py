"""The whole stand-in: started side by side, asked, stopped for certain."""

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from . import admin, agreement, aws, fault, pm2, postgres, process, redis, release, seed, toolchain
from .credentials import Credentials, write_private
from .errors import SandboxError
from .layout import ADMIN, API, BIN, DOTENV, ENVIRONMENT, INTENTS, LOCALSTRIPE, LOGS, RELEASES, SENDGRID, STATE, STRIPE
from .lock import exclusively
from .part import Part, server
from .plain import running as plain
from .state import State

# Survive a stop: they depend on what is installed, not on what ran.
KEPT = {"bin", "lock", "install.lock", "logs"}


def parts() -> list[Part]:
    """Return every part but the API, which PM2 runs."""
    return [
        postgres.part(),
        redis.part(),
        aws.part(),
        server("localstripe_server", port=LOCALSTRIPE, path="/js.stripe.com/v3/"),
        server("stripe_server", port=STRIPE, path="/_sandbox/health"),
        server("sendgrid_server", port=SENDGRID, path="/_sandbox/health"),
    ]


def status() -> list[State]:
    """Ask every part how it is."""
    with ThreadPoolExecutor() as pool:
        api = pool.submit(_api_state)
        return [*map(_agreed, pool.map(_state, parts())), api.result()]


def _state(part: Part) -> State:
    found = part.process()
    return State(part.name, part.port, (found.pid,) if found else (), part.problem() if found else "not running")


def _agreed(state: State) -> State:
    if state.name != "stripe_server" or state.problem:
        return state
    return replace(state, problem=agreement.problem())


def _api_state() -> State:
    running = pm2.processes()
    if not running:
        return State("api", API, (), "not running")
    return State("api", API, tuple(worker.pid for worker in running), pm2.problem())


def start(*, listen_timeout: int = pm2.LISTEN_TIMEOUT) -> bool:
    """Start the stand-in; False if all of it was ready already. `listen_timeout` is PM2's for the API, in ms.

    One of which only a part runs is stopped first: its secrets and data are made anew with each start.
    """
    toolchain.install()
    with exclusively():
        if all(state.problem is None for state in status()):
            return False
        _stop()
        _refuse_taken_ports()
        try:
            _start(listen_timeout)
        except BaseException:
            _stop()
            raise
        return True


def _start(listen_timeout: int) -> None:
    for folder in (ADMIN, RELEASES, LOGS, DOTENV.parent, INTENTS.parent, STATE / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    credentials = Credentials()
    credentials.save()
    # Where a person would put what the Stripe Dashboard has shown once.
    write_private(ADMIN / "new_stripe_secret_key", credentials.stripe_new_secret_key)
    write_private(ADMIN / "new_stripe_webhook_secret", credentials.stripe_new_webhook_secret)
    by_name = {part.name: part for part in parts() if part.name != "postgres"}
    with ThreadPoolExecutor() as pool:
        stripe = pool.submit(_start_stripe, by_name)
        cloud = pool.submit(_start_aws, by_name["aws_server"], credentials)
        code = pool.submit(_check_out, listen_timeout)
        database = pool.submit(_start_database, credentials, code.result, stripe.result)
        others = [
            pool.submit(by_name["sendgrid_server"].start),
            pool.submit(_start_redis, by_name["redis"], credentials),
        ]
        cloud.result()
        credentials.save()
        admin.write(credentials)
        write_private(DOTENV, credentials.dotenv)
        write_private(ADMIN / "database", credentials.postgres_url)
        for part in (*others, code, database):
            part.result()
        pm2.start()


def _start_stripe(by_name: dict[str, Part]) -> None:
    by_name["localstripe_server"].start()
    by_name["stripe_server"].start()


def _start_aws(part: Part, credentials: Credentials) -> None:
    part.start()
    aws.create_account(credentials)


def _start_redis(part: Part, credentials: Credentials) -> None:
    redis.create(credentials)
    part.start()
    redis.seed(credentials)


def _check_out(listen_timeout: int) -> None:
    release.create_origin()
    release.make_current(release.check_out(release.GOOD))
    pm2.write_ecosystems(listen_timeout)


def _start_database(credentials: Credentials, code: Callable[[], None], stripe: Callable[[], None]) -> None:
    postgres.create(credentials)
    postgres.part().start()
    postgres.create_database(credentials)
    code()
    migrate(credentials)
    stripe()
    with postgres.connect(credentials) as connection:
        seed.fill(connection, credentials, json.loads(INTENTS.read_text()))


def migrate(credentials: Credentials) -> None:
    """Bring the database to the schema of the good release."""
    server_folder = RELEASES / release.sha_of(release.GOOD) / "server"
    command = (str(BIN / "npx"), "prisma", "migrate", "deploy")
    environment = {**ENVIRONMENT, "DATABASE_URL": credentials.database_url}
    done = subprocess.run(command, cwd=server_folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"prisma migrate deploy exited {done.returncode}: {(done.stderr or done.stdout).strip()}")


def stop() -> bool:
    """Stop the stand-in and delete its state; False if there was nothing to stop."""
    with exclusively():
        return _stop()


def _stop() -> bool:
    running = any([plain.end(), fault.end_helpers(), *(part.process() for part in parts()), *pm2.processes()])
    pm2.stop()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda part: part.stop(), parts()))
    postgres.remove()
    for path in STATE.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    return running


def _refuse_taken_ports() -> None:
    for port in (*(part.port for part in parts()), API):
        if holder := process.listener(port):
            raise SandboxError(
                f"port {port} is taken by {process.describe(holder)}: end that process, then start again"
            )
        if process.accepts(port):
            raise SandboxError(f"port {port} is taken by a process that cannot be seen: end it, then start again")
