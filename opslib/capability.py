"""A capability: what an API may offer beyond the least, which procedures are better for it, and what would bring it."""

import ast
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from opslib.api import health, log, pm2, release, replacement
from opslib.api.settings import Tokens
from opslib.aws.settings import S3
from opslib.backups.settings import Backups
from opslib.database.settings import Database
from opslib.deployment import proof
from opslib.mail.settings import Mail
from opslib.payments.settings import Stripe
from opslib.propertypulse import PropertyPulse
from opslib.runbook import procedure
from opslib.runbook.answer import Answer
from opslib.runbook.environment import Part
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import Procedure

NEEDS: Mapping[str, tuple[type[Part], ...]] = {
    "api.jwt_rotation": (Tokens,),
    "database.api_login": (Database,),
    "database.database_diagnosis": (Database,),
    "payments.payment": (Stripe, Database),
    "aws": (S3,),
    "backups": (Backups, Database),
    "database.admin": (Database,),
    "database.login_rotation": (Database,),
    "mail": (Mail,),
    "payments": (Stripe,),
}
"""The parts of an environment's file that a procedure cannot do without which imports from there."""

WORKS = ("cannot", "cannot be told", "within a limit", "works")

# References to what a procedure cannot do without, by the modules that follow them.
_ADMINISTRATOR, _KEEPER, _IAM = "database.admin", "backups.credentials", "s3.administrator"


@dataclass(frozen=True)
class Capability:
    """What is asked for, whom it helps, and what is lost without it."""

    name: str
    used_by: tuple[str, ...]
    """Procedures by name, or modules: what imports from there is better for it."""
    ask: Callable[[PropertyPulse], Answer]
    without: str
    lift: str
    """The lines, in the API or in the environment's file, that would bring it."""
    needed: bool = False
    """Whether nothing of that works without."""


def _named(key: str) -> Callable[[PropertyPulse], Answer]:
    return lambda environment: Answer(bool(found := release.naming(environment, key)), found)


def _said(environment: PropertyPulse) -> Answer:
    got = health.ask(environment.api.health_url)
    return Answer(bool(got.body.get("pid")) if got.well else None, got)


def _legible(environment: PropertyPulse) -> Answer:
    marks = (position for worker in pm2.workers(environment) for position in worker.logs)
    return log.read(log.beginnings(marks, environment.log), environment.log).legible


def _led(key: str) -> Callable[[PropertyPulse], Answer]:
    """Ask whether a reference leads to a value."""

    def ask(environment: PropertyPulse) -> Answer:
        part, name = key.split(".")
        given = getattr(getattr(environment, part), name, "")
        return proof.reference(given, key) if given else Answer(False)

    return ask


def _changes_keys(environment: PropertyPulse) -> Answer:
    return Answer(True) if environment.s3 and environment.s3.new_pair else _led(_IAM)(environment)


def _iam(environment: PropertyPulse) -> Answer:
    return Answer(environment.s3 is not None and not environment.s3.new_pair)


CAPABILITIES: Sequence[Capability] = (
    Capability(
        "no request is lost when workers are replaced",
        ("api.replacement", "api.rollout"),
        replacement.graceful,
        "requests are lost at each restart, or cut: every such run asks for accept_downtime",
        """
        const server = app.listen(PORT, () => process.send?.("ready"));
        process.on("SIGINT", () => server.close(() => process.exit(0)));
        // pm2 start server.js --name propertypulse-api -i 2 --wait-ready
        """,
    ),
    Capability(
        "in fork mode the next process takes the port over",
        ("api.replacement", "api.rollout"),
        lambda environment: Answer(environment.api.handover or all(w.mode != "fork" for w in pm2.workers(environment))),
        "in fork mode nobody answers while the API boots",
        "# parameters/NAME.yaml, below api:\nhandover: true",
    ),
    Capability(
        "the code is tried before a process is taken away",
        ("api.trial",),
        lambda environment: Answer(environment.api.trial is not None or environment.api.release.is_symlink()),
        "in a checkout, a commit that does not start is found out when the old process has gone",
        '# parameters/NAME.yaml, below api:\ntrial: {variables: {REMINDERS: "false"}}',
    ),
    Capability(
        "an earlier release lies beside the one in force",
        ("api.replacement", "api.rollout"),
        lambda environment: Answer(environment.api.release.is_symlink(), environment.api.release),
        "an undo leaves the code as it is: `git checkout` of the commit before is for a person",
        "# deploy into a folder of its own, then: ln -sfn releases/COMMIT current",
    ),
    Capability(
        "/health says which worker answers",
        ("api.replacement", "api.rollout"),
        _said,
        "behind a proxy nobody can tell which worker answers; here the system is asked who has the connection",
        'res.json({ status: "healthy", pid: process.pid });',
    ),
    Capability(
        "tokens are checked with JWT_SECRET",
        ("api.jwt_rotation",),
        _named("JWT_SECRET"),
        "nothing reads the secret, so that its rotation protects nothing: it asks for accept_unread_secret",
        "jwt.verify(token, process.env.JWT_SECRET);",
    ),
    Capability(
        "tokens of the JWT_SECRET before are accepted too",
        ("api.jwt_rotation",),
        _named("JWT_SECRET_PREVIOUS"),
        "a rotation logs everybody out: it asks for accept_mass_logout",
        """
        const secrets = [process.env.JWT_SECRET, process.env.JWT_SECRET_PREVIOUS].filter(Boolean);
        // accept a token that jwt.verify takes with one of them
        """,
    ),
    Capability(
        "events signed with the webhook secret before are accepted too",
        ("rotate_webhook_secret", "retire_webhook_secret"),
        _named("STRIPE_WEBHOOK_SECRET_PREVIOUS"),
        "from the switch on only what the new secret has signed is taken",
        """
        const secrets = [process.env.STRIPE_WEBHOOK_SECRET, process.env.STRIPE_WEBHOOK_SECRET_PREVIOUS].filter(Boolean);
        // accept an event that stripe.webhooks.constructEvent takes with one of them
        """,
    ),
    Capability(
        "the API notes which events it has taken",
        ("payments.reception", "payments.missed_event"),
        lambda environment: Answer(environment.stripe is not None and environment.stripe.events is not None),
        "Stripe's own count of pending deliveries and the payment's status tell which events are missing",
        """
        -- in the transaction that handles the event
        INSERT INTO webhook_events (id, received_at) VALUES ($1, now()) ON CONFLICT DO NOTHING;
        """,
    ),
    Capability(
        "the lines of the log are known",
        ("payments.delivery_trace", "check_email_delivery"),
        _legible,
        "causes, and mails that failed, cannot be read from the log",
        '# parameters/NAME.yaml, below log:\nlines: {mail failed: "your words (?P<error>.*)"}',
    ),
    Capability(
        f"{_ADMINISTRATOR} leads to a URL",
        ("database.admin", "database.login_rotation", "backups"),
        _led(_ADMINISTRATOR),
        "nobody can look at the database from outside of the API, nor change a login",
        "# put the administrator's URL into the file that the reference names, mode 0600",
        needed=True,
    ),
    Capability(
        f"{_KEEPER} leads to a key",
        ("backups.store", "backups.backup", "backups.restore_point"),
        _led(_KEEPER),
        "no backup can be stored, nor read",
        "# put the key into the file that the reference names, mode 0600",
        needed=True,
    ),
    Capability(
        "the file names the command that starts PostgreSQL",
        ("start_database",),
        lambda environment: Answer(bool(environment.database and environment.database.start)),
        "a person starts it",
        "# parameters/NAME.yaml, below database:\nstart: sudo -n systemctl start postgresql",
        needed=True,
    ),
    Capability(
        "the file names who may change the keys of AWS",
        ("aws.key_pair", "aws.key_rotation", "aws.key_standing"),
        _changes_keys,
        "no key can be made, nor looked at, nor retired",
        "# parameters/NAME.yaml, below s3:\nadministrator: file:~/.runbook/NAME/aws.json",
        needed=True,
    ),
    Capability(
        "the API is asked to sign an upload",
        ("aws.upload",),
        lambda environment: Answer(bool(environment.s3 and environment.s3.signing and environment.s3.login)),
        "a key is proven by S3 alone: nobody asks whether the API signs with it",
        """
        # parameters/NAME.yaml, below s3:
        login: file:~/.runbook/NAME/login.json
        signing: {route: …, body: {…}, sign_in: {url: …}}
        """,
    ),
    Capability(
        "IAM makes the new key",
        ("aws.key_pair",),
        _iam,
        "the new pair is made in the console of the S3, and comes by reference",
        "# nothing in the API: AWS has IAM, other makers have not",
    ),
)
"""All that are asked for."""


@dataclass(frozen=True)
class Standing:
    """How a deployment stands: of each capability whether it is there, of each procedure what it lacks."""

    environment: PropertyPulse
    answers: Mapping[str, Answer]

    def capabilities(self) -> list[dict[str, str]]:
        """Give each capability with its number, whether it is there, and what is lost without it."""
        answered = [(number, one, self.answers[one.name]) for number, one in enumerate(CAPABILITIES, 1)]
        return [
            {"number": str(number), "capability": one.name, "is there": _word(answer),
             "without it": "" if answer else one.without}
            for number, one, answer in answered
        ]  # fmt: skip

    def lines(self) -> list[dict[str, str]]:
        """Give the lines that would bring what is lacking, each capability with its own."""
        return [
            {"capability": name if not number else "", "lines that would bring it": line}
            for name, lift in ((one.name, one.lift) for one in CAPABILITIES if not self.answers[one.name])
            for number, line in enumerate(textwrap.dedent(lift).strip().splitlines())
        ]

    def procedures(self) -> list[dict[str, str]]:
        """Give each procedure, whether it works here, and what it lacks, those that cannot first."""
        rows = [self._row(one) for one in map(procedure.load, procedure.names()) if not one.describes]
        return sorted(rows, key=lambda row: WORKS.index(row["here"]))

    def _row(self, one: Procedure) -> dict[str, str]:
        used = modules(one)
        absent = {part.__name__.lower() for name, parts in NEEDS.items() if _uses(used, name) for part in parts
                  if self.environment.find(part) is None}  # fmt: skip
        wanted = {number: one for number, one in enumerate(CAPABILITIES, 1)
                  if any(_uses(used, name) for name in one.used_by)}  # fmt: skip
        lacks = {number: one for number, one in wanted.items() if self.answers[one.name].ok is False}
        untold = [str(number) for number, one in wanted.items() if self.answers[one.name].ok is None]
        cannot, unknown, limit, works = WORKS
        here = unknown if untold else limit if lacks else works
        here = cannot if absent or any(one.needed for one in lacks.values()) else here
        said = [f"the file has no `{part}:`" for part in sorted(absent)]
        said += [f"lacks {', '.join(map(str, lacks))}"] if lacks and not absent else []
        said += [f"it is not known of {', '.join(untold)}"] if untold and not absent else []
        return {"procedure": one.name, "here": here, "because": "; ".join(said)}


def standing(environment: PropertyPulse) -> Standing:
    """Ask for every capability; one that cannot be asked for is not known to be there."""
    return Standing(environment, {one.name: _asked(one, environment) for one in CAPABILITIES})


def modules(one: Procedure) -> set[str]:
    """Give the name of a procedure and the modules of opslib that it imports, as `api.replacement`."""
    return {one.name, *_imported(one)}


def _imported(one: Procedure) -> Iterator[str]:
    for cell in one.notebook["cells"]:
        for node in ast.walk(ast.parse(cell["source"])) if cell["cell_type"] == "code" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opslib."):
                folder = str(node.module).removeprefix("opslib.")
                yield from (f"{folder}.{name.name}" for name in node.names)


def _uses(used: set[str], name: str) -> bool:
    return any(one == name or one.startswith(f"{name}.") for one in used)


def _asked(one: Capability, environment: PropertyPulse) -> Answer:
    try:
        return one.ask(environment)
    except (RunbookError, OSError) as error:
        return Answer(None, str(error))


def _word(answer: Answer) -> str:
    return {True: "yes", False: "no", None: "cannot be told"}[answer.ok]
