"""What the drills of `recover_database` stand on: a proven backup, the run, and what must be true however it ended."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib import propertypulse
from opslib.api import health, pm2
from opslib.backups import backup, database_copy, dump, restore, swap
from opslib.backups.backup import Backup
from opslib.backups.store import stores
from opslib.database import admin
from tests.drills import backups
from tests.sandbox import fault, postgres
from tests.sandbox.credentials import Credentials

NAME, BACK, DROP = "recover_database", "take_recovery_back", "drop_replaced_database"
TYPED = ("-p", "confirm", postgres.DATABASE)


def proven() -> Backup:
    """Take a backup of the stand-in now and say that it is proven, without the proof."""
    env = propertypulse.load("sandbox")
    places = stores(env)[0]
    made, problem = dump.take(env, secrets.token_hex(4), places)
    assert not problem, problem
    for place in places:
        backup.prove(made, place, datetime.now(UTC))
    return next(one for one in backup.listed(env) if one.name == made.name)


@contextlib.contextmanager
def backed_up() -> Iterator[None]:
    """Have a proven backup meanwhile, as a deployment has that takes one each night."""
    backups.forget()
    proven()
    yield
    backups.forget()


@contextlib.contextmanager
def replaced() -> Iterator[str]:
    """Have a database meanwhile that a recovery replaced some time ago."""
    live, old = postgres.DATABASE, f"{postgres.DATABASE}_old_20260101_000000"
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        superuser.execute(f"CREATE DATABASE {old} TEMPLATE template0 OWNER {live}")
        with postgres.connect_admin(Credentials.load(), old) as inside:
            inside.execute("CREATE TABLE payments (id int, created_at timestamptz)")
        yield old
        superuser.execute(f"DROP DATABASE IF EXISTS {old} WITH (FORCE)")


def recover(*arguments: str, root: Path = backups.ROOT, **options: Any) -> tuple[int, dict[str, Any], str]:
    """Run it, applied; give its exit code, its record, and what the terminal showed."""
    return backups.run(*TYPED, *arguments, name=NAME, root=root, **options)


def take_back() -> tuple[int, dict[str, Any], str]:
    """Take the last recovery back, applied, as `recover` does."""
    return backups.run(*TYPED, name=BACK)


def kill(whom: str, until: str, later: float, *arguments: str, name: str = NAME) -> None:
    """Begin a run, and kill its runner, its kernel or both so many seconds after it has shown this line."""
    backups.kill(whom, until, later, *TYPED, *arguments, name=name)


def live() -> int:
    """Give the oid of the live database: which one it is, whatever it is called."""
    return next(one.oid for one in database_copy.listed(propertypulse.load("sandbox")) if one.kind == "live")


def kinds() -> list[str]:
    """Give what stands beside the live database."""
    return [one.kind for one in database_copy.listed(propertypulse.load("sandbox")) if one.kind != "live"]


def payments() -> int:
    """Count the payments in the live database."""
    with postgres.connect(Credentials.load()) as connection:
        row = connection.execute("SELECT count(*) FROM payments").fetchone()
        assert row
        return int(row[0])


@contextlib.contextmanager
def same_payments() -> Iterator[None]:
    """Have afterwards the payments that there are now."""
    with postgres.connect(Credentials.load()) as connection, connection.cursor().copy("COPY payments TO STDOUT") as out:
        rows = [bytes(row) for row in out]
    yield
    clean()
    with postgres.connect(Credentials.load()) as connection, connection.transaction():
        connection.execute("DELETE FROM payments")
        with connection.cursor().copy("COPY payments FROM STDIN") as back:
            for row in rows:
                back.write(row)


def lose(count: int) -> None:
    """Do the damage: the newest payments are gone."""
    with postgres.connect(Credentials.load()) as connection:
        gone = connection.execute(
            "DELETE FROM payments WHERE id IN (SELECT id FROM payments ORDER BY id DESC LIMIT %s)", [count]
        )
        assert gone.rowcount == count


def problems() -> list[str]:
    """Say what is wrong after a run that has ended by itself; nothing if the API is well and nothing is stray."""
    env, wrong = propertypulse.load("sandbox"), backups.strays()
    if not health.steady(env.api.health_url, 10):
        wrong.append("the API is not well")
    found = database_copy.listed(env)
    wrong += [f"{one.name} is left" for one in found if one.kind == "new"]
    wrong += [f"{one.name} is noted as {one.note}" for one in found if one.note]
    with admin.connect(env, admin.MAINTENANCE) as superuser:
        rows = superuser.execute("SELECT datname FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'")
        wrong += [f"nobody may log in to {row['datname']}" for row in rows]
    return wrong


def clean() -> None:
    """Bring the stand-in back: one database, the live one, as good as new, and no backup."""
    env = propertypulse.load("sandbox")
    found = database_copy.listed(env)
    first = min(found, key=lambda one: one.oid)
    if first.kind != "live":
        swap.exchange(env, first.name, "old").run()
        found = database_copy.listed(env)
    for one in found:
        if one.kind != "live":
            restore.drop(env, one.name).run()
    backups.empty()
    backups.forget()
    ends = time.monotonic() + 30
    while not health.steady(env.api.health_url, 10) and time.monotonic() < ends:
        with contextlib.suppress(Exception):
            fault.mend()
    pm2.quiet(env)
