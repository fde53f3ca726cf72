"""PropertyPulse: a deployment with all its parts, each defined by the domain that reads it."""

from collections.abc import Iterator
from contextlib import suppress

from opslib.api.settings import Log, Tokens
from opslib.aws.settings import S3
from opslib.backups.settings import Backups
from opslib.database.settings import Database, RecoveryGoals
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.mail.settings import Mail
from opslib.payments.settings import Stripe
from opslib.runbook import environment
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask


class PropertyPulse(Deployment):
    """One deployment of PropertyPulse, as its file in parameters/ describes it."""

    tokens: Tokens | None = None
    log: Log = Log()
    recovery: RecoveryGoals = RecoveryGoals()
    s3: S3 | None = None
    database: Database | None = None
    backups: Backups | None = None
    stripe: Stripe | None = None
    mail: Mail | None = None

    def prove(self) -> Iterator[tuple[str, Answer]]:
        """Prove each line against the world, as Environment has it: each domain's own, all side by side."""
        # Here, because no run needs them, and the libraries of Stripe and AWS take a second.
        from opslib.api import log, proof as api
        from opslib.aws import proof as aws
        from opslib.backups import proof as backups
        from opslib.database import proof as database
        from opslib.deployment import deployment_proof as deployment, env_secret, proof
        from opslib.mail import proof as mail
        from opslib.payments import proof as payments

        domains = (deployment, api, database, backups, aws, payments, mail)
        proofs = [one for domain in domains for one in domain.prove(self)]
        with suppress(RunbookError):  # of the .env; its line says so
            held = env_file.read(self.api.env_file)
            looks = env_secret.keys(held)
            mask.know({k: v for k, v in held.items() if k.startswith(tuple(self.secrets)) or k in looks})
            mask.know(self.values())
        for key, answer in proof.answers(proofs):
            otherwise = "" if answer else answer.otherwise
            yield key, Answer(answer.ok, log.redact(answer.evidence), log.redact(otherwise))


environment.describe(PropertyPulse)


def load(name: str) -> PropertyPulse:
    """Read `parameters/NAME.yaml`, as `environment.load` does."""
    found = environment.load(name)
    assert isinstance(found, PropertyPulse)
    return found
