"""What a rotation costs while the API reads, writes and signs, and gets events: the procedures, and the old runbook."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from opslib.database import database_url
from opslib.deployment import env_file
from opslib.runbook import procedure, record
from tests import leaks, sandbox
from tests.bench import old_runbook
from tests.bench.terminal import Terminal
from tests.drills import stripe_agreement as stripe
from tests.drills.database import Saved
from tests.sandbox import postgres
from tests.sandbox.layout import DOTENV, LOGS, PM2_HOME, STATE

RATE = 100
TAIL_SECONDS = 10
"""How long the traffic goes on after the last command: what is broken then goes on failing."""
HEADS = ("exit", "seconds", "requests", "failed", "401s", "writes lost", "events lost", "in files", "in argv")
KEYS = ("JWT_SECRET", "DATABASE_URL", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "AWS_SECRET_ACCESS_KEY")
"""The secrets that are searched for, each as it was before and after."""


def main() -> None:
    """Print a row for each way to rotate."""
    sandbox.start()
    sandbox.mend()
    print(f"At {RATE} authenticated requests a second, until {TAIL_SECONDS} s after the last command; PostgreSQL logs")
    print("every statement. The bar for the procedures is 0 in every column from `failed` on; `in files` and `in argv`")
    print("are secrets in plain text: in logs, records, PM2's home and what was printed, and in command lines.")
    print(table_row("", HEADS))
    with postgres.everything_logged():
        for name, rotate in WAYS.items():
            print(table_row(name, measure(rotate)), flush=True)


def table_row(name: str, figures: Iterable[object]) -> str:
    """Align one row."""
    return " ".join([f"{name:<40}", *(f"{figure!s:>{len(head)}}" for head, figure in zip(HEADS, figures, strict=True))])


def measure(rotate: Callable[[Terminal], None]) -> tuple[int, ...]:
    """Rotate once under traffic, put the stand-in back, and count."""
    terminal, saved, old = Terminal(), Saved.now(), held()
    with leaks.command_lines() as lines, sandbox.Traffic(rate=RATE, writes=True) as traffic:
        begun = time.monotonic()
        rotate(terminal)
        seconds = time.monotonic() - begun
        time.sleep(TAIL_SECONDS)
    got, new = traffic.result, held()
    secrets = {
        f"{key}, {when}": value for when, values in (("old", old), ("new", new)) for key, value in values.items()
    }
    places = [LOGS, PM2_HOME, STATE / "logs", postgres.HOME.resolve() / "data" / "log", record.folder()]
    written = leaks.found(secrets, places) + leaks.shown(secrets, {"terminal": "\n".join(terminal.said)})
    typed = leaks.shown(secrets, {line: line for line in {*lines, *terminal.typed}})
    put_back(saved, old, new)
    if worst := max(terminal.exits):
        print(terminal.said[terminal.exits.index(worst)])
    lost = (got.writes - got.written, got.events - got.applied)
    return (worst, round(seconds), got.asked, got.failed, got.unauthorized, *lost, len(written), len(typed))


def held() -> dict[str, str]:
    """Give the secrets of the `.env`; of the database's URL, the password."""
    values = env_file.read(DOTENV)
    values["DATABASE_URL"] = database_url.parameters(values["DATABASE_URL"])["password"]
    return {key: values[key] for key in KEYS}


def put_back(saved: Saved, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Bring the first secrets back; but an access key that is deleted stays so, and the new one in force."""
    # Whether or not the `.env` has others now: a way that failed may have rolled and expired them all the same.
    stripe.create_key(secret=old["STRIPE_SECRET_KEY"])
    stripe.dashboard(f"webhook_endpoints/{stripe.ENDPOINT}/roll", secret=old["STRIPE_WEBHOOK_SECRET"])
    (saved if old["AWS_SECRET_ACCESS_KEY"] == new["AWS_SECRET_ACCESS_KEY"] else Saved.now()).put_back()
    sandbox.mend()


def run(terminal: Terminal, name: str, **parameters: str) -> None:
    """Run a procedure of ours; one that makes new workers need not wait for them as long as it would."""
    quick = {"settle_seconds": "2"} if "settle_seconds" in procedure.load(name).parameters else {}
    given = [word for key, value in {**quick, **parameters}.items() for word in ("-p", key, value)]
    terminal.run(sys.executable, "-m", "opslib.runbook.cli", "run", name, "--apply", *given)


def jwt_secret(terminal: Terminal) -> None:
    """The secret that it replaces is retired a week later, when no token is signed with it any more."""
    run(terminal, "rotate_jwt_secret")


def database_password(terminal: Terminal) -> None:
    """Two roles in turn."""
    run(terminal, "rotate_database_password")
    run(terminal, "retire_database_login", settle_seconds="")


def one_role(terminal: Terminal) -> None:
    """One role, whose window the procedure states."""
    run(terminal, "change_database_password")


def stripe_keys(terminal: Terminal) -> None:
    """All four procedures, and the Dashboard's part in between."""
    old = held()["STRIPE_SECRET_KEY"]
    with TemporaryDirectory() as folder:
        given = stripe.put(Path(folder), stripe.create_key())
        run(terminal, "rotate_stripe_key", new_key=given)
        stripe.dashboard("keys/expire", secret=old)
        run(terminal, "retire_stripe_key", old_key_last_used="leaked")
        given = stripe.put(Path(folder), stripe.roll())
        run(terminal, "rotate_webhook_secret", new_secret=given)
        run(terminal, "retire_webhook_secret")


def s3_credentials(terminal: Terminal) -> None:
    """A new key, and the old one taken away, without the time in between."""
    run(terminal, "rotate_s3_credentials")
    run(terminal, "deactivate_s3_key", settle_seconds="", accept_broken_uploads="True")
    run(terminal, "delete_s3_key", settle_seconds="", quiet_seconds="0")


# Ours first: of what the old runbook leaves in a log none may be taken for ours.
WAYS = {
    "rotate_jwt_secret": jwt_secret,
    "the old runbook's JWT secret": old_runbook.jwt_secret,
    "rotate_database_password": database_password,
    "change_database_password": one_role,
    "the old runbook's database password": old_runbook.database_password,
    "Stripe's key and webhook secret": stripe_keys,
    "the old runbook's Stripe keys": old_runbook.stripe_keys,
    "rotate_s3_credentials": s3_credentials,
    "the old runbook's S3 credentials": old_runbook.s3_credentials,
}


if __name__ == "__main__":
    main()
