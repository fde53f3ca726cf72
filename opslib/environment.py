"""An environment: one deployment, described by a file in parameters/."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
)

from opslib.errors import BadEnvironment
from opslib.procedure import names as procedure_names, root

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": "0"}  # what programs say goes into records, not onto a terminal

_http = TypeAdapter(HttpUrl)


def _url(text: str) -> str:
    _http.validate_python(text)
    return text.rstrip("/")


def _reference(text: str) -> str:
    kind, _, where = text.partition(":")
    return f"{kind}:{root() / Path(where).expanduser()}" if kind == "file" else text


Place = Annotated[Path, AfterValidator(lambda path: root() / path.expanduser())]
"""A path; a relative one starts at the folder that holds parameters/."""
Reference = Annotated[str, AfterValidator(_reference)]
"""Where a secret is, as opslib/reference.py says; a relative path of a file starts where a Place does."""
Url = Annotated[str, AfterValidator(_url)]


Policy = Literal["none", "digest", "second-person"]


def _by_procedure(given: object) -> object:
    return {"default": given} if isinstance(given, str) else given


def _known_procedures(policies: dict[str, Policy]) -> dict[str, Policy]:
    # A misspelt name would leave the procedure that was meant with a weaker policy.
    if unknown := policies.keys() - {"default", *procedure_names()}:
        raise ValueError(f"found {', '.join(sorted(unknown))}, expected `default` or names of procedures")
    if "default" not in policies:
        raise ValueError("expected a policy named `default` beside those of procedures")
    return policies


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Api(_Part):
    """The API under PM2: what it is called, where it answers, and where its files lie."""

    name: Annotated[str, Field(min_length=1)]
    url: Url
    health: Annotated[str, Field(pattern="^/")] = "/health"
    pm2_home: Place
    env_file: Place
    release: Place
    """The link that points at the release in force."""

    @property
    def health_url(self) -> str:
        """The address that answers 200 while the API is well."""
        return self.url + self.health


class Database(_Part):
    """PostgreSQL: who administers it, and by what a login is tried."""

    admin: Reference
    """Where the URL of an administrator is, who may change roles."""
    table: Annotated[str, Field(min_length=1)] = "payments"
    """A table that the API reads and writes: a new login is tried on it, and what it writes is rolled back."""
    userlist: Place | None = None
    """PgBouncer's file of passwords, where it has one (auth_file)."""
    start: str = ""
    """The command that starts the server where it is down; empty where that is nothing for a procedure."""


class Limits(_Part):
    """How long things may take, in seconds."""

    run: Annotated[float, Field(gt=0)] = 1800
    cell: Annotated[float, Field(gt=0)] = 600
    undo: Annotated[float, Field(gt=0)] = 120
    """What an interrupted run gets to undo its changes."""


class Recovery(_Part):
    """What a recovery of the database is held to, and where a release keeps its migrations."""

    rpo_hours: Annotated[float, Field(gt=0)] = 24
    """How old the newest proven backup may be."""
    keep_days: Annotated[float, Field(ge=0)] = 7
    """How long a database that was replaced stays before stage drop-old may drop it."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Sessions that restore at the same time; each takes up to 256 MB for its indexes."""
    prisma: Annotated[str, Field(pattern="^[^/]")] = "server"
    """The folder of a release that `prisma migrate` runs in."""


class Tokens(_Part):
    """The tokens (JWT) that the API signs, and a read-only route that asks for one."""

    route: Annotated[str, Field(pattern="^/")]
    claims: dict[str, str | int | bool]
    """What a token must hold for that route to accept it."""
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    longest: Annotated[float, Field(gt=0)]
    """How long the longest-lived token is valid, clocks that differ included; seconds."""


class Stripe(_Part):
    """The Stripe account: what its keys must be, and where a person puts what only the Dashboard gives."""

    mode: Literal["live", "test"]
    account: Annotated[str, Field(pattern="^(acct_.+)?$")] = ""
    """The account's id, checked where the key may ask for it; empty does not check."""
    url: Url = "https://api.stripe.com"
    needs: tuple[Annotated[str, Field(pattern="^[a-z][a-z_]+$")], ...] = (
        "balance",
        "charges",
        "events",
        "payment_intents",
        "refunds",
        "webhook_endpoints",
    )
    """What the API's key must be permitted, each proven by one GET: services of `StripeClient.v1`."""
    webhook: Annotated[str, Field(pattern="^/")] = "/api/webhooks/stripe"
    handles: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$")], ...], Field(max_length=20)] = (
        "charge.refunded",
        "payment_intent.canceled",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
    )
    """The types of event that the API acts on; Stripe lists at most twenty at once."""
    new_key: str = "env:NEW_STRIPE_SECRET_KEY"
    new_webhook_secret: str = "env:NEW_STRIPE_WEBHOOK_SECRET"
    quiet_hours: Annotated[int, Field(ge=0, le=168)] = 24
    """How long an old key must have been unused before it is retired."""
    reader: str = ""
    """Reference to a key that may read events and endpoints and resend; empty: the API's own key may."""


class S3(_Part):
    """Where the API keeps uploads, and the IAM user whose access keys sign them."""

    user: Annotated[str, Field(min_length=1)]
    bucket: Annotated[str, Field(min_length=3)]
    other_bucket: Annotated[str, Field(min_length=3)]
    """A bucket of the account that the user must not be able to touch."""
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where IAM, STS and S3 answer, if not at AWS's own addresses."""
    administrator: str
    """A reference to the credentials of whoever may change the user's keys, as JSON of a `credential_process`."""
    login: str
    """A reference to an account of the API, as JSON with `email` and `password`."""
    presigned: Annotated[int, Field(ge=0, le=604800)] = 604800
    """The longest life of a URL that the API signs, in seconds; AWS lets an IAM user sign for seven days at most."""


class Mail(_Part):
    """SendGrid: where it answers, with which key, and what the API needs of it."""

    url: Url = "https://api.sendgrid.com"
    key: Annotated[str, Field(min_length=1)] = "SENDGRID_API_KEY"
    """The name of the key in the API's `.env`."""
    sender: Annotated[str, Field(pattern="^[^@ ]+@[^@ ]+$")]
    """The address that the API sends from, which SendGrid must know as verified."""
    webhook: Annotated[str, Field(pattern="^(/.*)?$")] = ""
    """The path of the API's that gets SendGrid's events; empty if it takes none."""
    reader: str = ""
    """Reference to a key that may read suppressions and webhooks, and delete; empty: the API's own key may."""
    needs: frozenset[str] = frozenset({"mail.send"})
    """The scopes that the key must have."""


class Backups(_Part):
    """Where backups of the database are kept, and for how long."""

    folder: Place
    """A folder of this machine, best on another disk than the database: each backup lies there too."""
    bucket: Annotated[str, Field(min_length=3)]
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = "database"
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where S3 answers, if not at AWS's own address."""
    credentials: Reference
    """Where the credentials are that may read, write and delete there, as JSON of a `credential_process`."""
    keep_days: Annotated[int, Field(ge=1)] = 14
    keep_proven: Annotated[int, Field(ge=1)] = 7
    """How many proven backups are kept at least, however old."""


class Environment(_Part):
    """One deployment, as its file in parameters/ describes it."""

    title: str
    approval: Annotated[dict[str, Policy], BeforeValidator(_by_procedure), AfterValidator(_known_procedures)]
    """What a plan needs before it is carried out, by procedure; `default` is for all that are not named."""
    signers: Place | None = None
    """The file of allowed signers for `second-person`, as ssh-keygen(1) describes it."""
    api: Api
    secrets: frozenset[str]
    """The keys of the API's `.env` whose values are secret."""
    tokens: Tokens | None = None
    recovery: Recovery = Recovery()
    s3: S3 | None = None
    tools: Place | None = None
    """A folder with pm2, psql and the like, searched before PATH."""
    database: Database | None = None
    backups: Backups | None = None
    limits: Limits = Limits()
    stripe: Stripe | None = None
    mail: Mail | None = None
    name: str = ""

    def policy(self, procedure: str) -> Policy:
        """What a plan of this procedure needs."""
        return self.approval.get(procedure, self.approval["default"])

    @cached_property
    def variables(self) -> dict[str, str]:
        """The environment variables for outside programs: nothing of the kernel's own but what is named here."""
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "USER") if key in os.environ}
        path = os.environ.get("PATH", os.defpath)
        return {
            **kept,
            "PATH": f"{self.tools}:{path}" if self.tools else path,
            "PM2_HOME": str(self.api.pm2_home),
            **PLAIN,
        }


def names() -> list[str]:
    """The names of the environments in parameters/, sorted."""
    files = (root() / "parameters").glob("*.yaml")
    return sorted(f.stem for f in files if NAME.fullmatch(f.stem) and re.search(r"^api:", f.read_text(), re.M))


def load(name: str) -> Environment:
    """Read `parameters/NAME.yaml`. Raise BadEnvironment with file and line for each thing that is wrong in it."""
    file = root() / "parameters" / f"{name}.yaml"
    if not NAME.fullmatch(name) or not file.is_file():
        raise BadEnvironment(
            f"there is no environment {name[:80]!a}: parameters/ has {', '.join(names()) or 'none'}. "
            "Copy parameters/production.example.yaml to make one."
        )
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadEnvironment(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise BadEnvironment(f"{file}:1: found {type(content).__name__}, expected keys and values")
    try:
        return Environment(**{**content, "name": name})
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        lines = [f"{file}:{_line(tree, p['loc'])}: {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems]
        raise BadEnvironment("\n".join(lines)) from None


def _line(node: Any, keys: Sequence[object]) -> int:
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            child = next((value for name, value in node.value if name.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            child = node.value[key]
        else:
            child = None
        if child is None:
            break
        node = child
    return int(node.start_mark.line) + 1
