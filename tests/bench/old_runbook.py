"""The key rotations of the old runbook, carried out as they are written.

By a script, one command after the other: a person takes minutes to paste a secret, and what fails meanwhile fails for
longer. What is done in a Dashboard ends the old secret at once, as the runbook asks for no overlap.
"""

from urllib.parse import quote, urlsplit

from opslib import propertypulse
from opslib.api import jwt
from opslib.aws import aws
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import Pair
from opslib.deployment import env_file
from tests.bench.terminal import Terminal
from tests.drills import stripe_agreement as stripe
from tests.sandbox import pm2, postgres
from tests.sandbox.credentials import BUCKET
from tests.sandbox.layout import BIN, CURRENT, DOTENV, ENVIRONMENT


def jwt_secret(terminal: Terminal) -> None:
    """A new secret, and a restart. Its `pm2 logs | grep auth` would not end."""
    _set(terminal, "JWT_SECRET", jwt.make())
    _restart(terminal)


def database_password(terminal: Terminal) -> None:
    """A new password, the URL, a test of the connection, and a restart."""
    url, new = _held("DATABASE_URL"), jwt.make()
    # Without Prisma's parameters, which psql refuses.
    terminal.run(BIN / "psql", url.partition("?")[0], "-c", f"ALTER USER {postgres.ROLE} PASSWORD '{new}'")
    _set(terminal, "DATABASE_URL", url.replace(urlsplit(url).password or "", quote(new, safe="")))
    # Written is `prisma db pull`, on which the stand-in's Prisma crashes, and which would overwrite schema.prisma.
    terminal.run(BIN / "npx", "prisma", "migrate", "status", cwd=CURRENT / "server", env=ENVIRONMENT)
    _restart(terminal)


def stripe_keys(terminal: Terminal) -> None:
    """New keys from the Dashboard, both settings at once, a restart, and a payment intent."""
    key, secret = stripe.create_key(), stripe.roll(overlap=0)
    stripe.dashboard("keys/expire", secret=_held("STRIPE_SECRET_KEY"))
    _set(terminal, "STRIPE_SECRET_KEY", key)
    _set(terminal, "STRIPE_WEBHOOK_SECRET", secret)
    _restart(terminal)
    stripe.intent(stripe.login())


def s3_credentials(terminal: Terminal) -> None:
    """A new key, both settings, a list of the bucket, a restart, a signed URL; then the old key is deleted."""
    env, old = propertypulse.load("sandbox"), _held("AWS_ACCESS_KEY_ID")
    user, iam = AccessKeys(env).settings.user, aws.client(env, "iam", aws.administrator(env))
    made = iam.create_access_key(UserName=user)["AccessKey"]
    new = Pair(made["AccessKeyId"], made["SecretAccessKey"])
    _set(terminal, "AWS_ACCESS_KEY_ID", new.id)
    _set(terminal, "AWS_SECRET_ACCESS_KEY", new.secret)
    aws.client(env, "s3", new).list_objects_v2(Bucket=BUCKET)  # for `aws s3 ls`, which is not installed everywhere
    _restart(terminal)
    stripe.ask("POST", f"{env.api.url}/api/uploads/signed-url", token=stripe.login(), fileName="test.pdf")
    iam.delete_access_key(UserName=user, AccessKeyId=old)


def _held(key: str) -> str:
    return env_file.read(DOTENV)[key]


def _set(terminal: Terminal, key: str, value: str) -> None:
    escaped = value.replace("&", r"\&")
    terminal.run("sed", "-i", f"s|^{key}=.*|{key}={escaped}|", DOTENV)


def _restart(terminal: Terminal) -> None:
    terminal.run(BIN / "pm2", "restart", pm2.APPLICATION, env=ENVIRONMENT)
