"""PropertyPulse: a deployment with all its parts, each defined by the domain that reads it."""

from opslib.api.settings import Log, Tokens
from opslib.aws.settings import S3
from opslib.backups.settings import Backups
from opslib.database.settings import Database, RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.mail.settings import Mail
from opslib.payments.settings import Stripe
from opslib.runbook import environment


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


environment.describe(PropertyPulse)


def load(name: str) -> PropertyPulse:
    """Read `parameters/NAME.yaml`, as `environment.load` does."""
    found = environment.load(name)
    assert isinstance(found, PropertyPulse)
    return found
