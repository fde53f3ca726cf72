"""The secrets of one start: random each time, so that a leak of one can be told from chance."""

import json
import os
import secrets
import string
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from .layout import AWS, CREDENTIALS, HOST, LOGS, POSTGRES, REDIS, SENDGRID, STRIPE, url

BUCKET = "propertypulse-uploads"
BACKUP_BUCKET = "propertypulse-backups"
IAM_USER = "propertypulse-app"
REGION = "us-east-1"


def _token() -> str:
    return secrets.token_urlsafe(32)


def _alphanumeric(length: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


@dataclass(kw_only=True)
class Credentials:
    """Everything secret in the stand-in; `credentials.json` holds them for its administrators and tests."""

    postgres_user: str = "postgres"
    postgres_password: str = field(default_factory=_token, repr=False)
    # With a character that a URL must have percent-encoded, as real passwords do.
    database_password: str = field(default_factory=lambda: f"{_alphanumeric(20)}/{_alphanumeric(8)}@", repr=False)
    redis_password: str = field(default_factory=_token, repr=False)
    jwt_secret: str = field(default_factory=_token, repr=False)
    login_email: str = "oncall@propertypulse.example"
    login_password: str = field(default_factory=lambda: _alphanumeric(24), repr=False)
    stripe_secret_key: str = field(default_factory=lambda: f"sk_test_{_alphanumeric(64)}", repr=False)
    # A second valid key, as the Dashboard would have made for a rotation.
    stripe_new_secret_key: str = field(default_factory=lambda: f"sk_test_{_alphanumeric(64)}", repr=False)
    stripe_webhook_secret: str = field(default_factory=lambda: f"whsec_{_alphanumeric(32)}", repr=False)
    # What a roll in the Dashboard would give.
    stripe_new_webhook_secret: str = field(default_factory=lambda: f"whsec_{_alphanumeric(32)}", repr=False)
    # Opens the part's own /_sandbox/ addresses.
    stripe_admin_token: str = field(default_factory=_token, repr=False)
    aws_admin_access_key_id: str = ""
    aws_admin_secret_access_key: str = field(default="", repr=False)
    aws_access_key_id: str = ""
    aws_secret_access_key: str = field(default="", repr=False)
    sendgrid_api_key: str = field(
        default_factory=lambda: f"SG.{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}", repr=False
    )

    @classmethod
    def load(cls) -> Self:
        """Read the credentials of the running stand-in."""
        return cls(**json.loads(CREDENTIALS.read_text()))

    def save(self) -> None:
        """Write the credentials for administrators to read."""
        write_private(CREDENTIALS, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def database_url(self) -> str:
        """The address that the API connects to, as Prisma writes it."""
        password = quote(self.database_password, safe="")
        options = "schema=public&connection_limit=5"
        return f"postgresql://propertypulse:{password}@{HOST}:{POSTGRES}/propertypulse?{options}"

    @property
    def postgres_url(self) -> str:
        """The address that an administrator of the database connects to."""
        return f"postgresql://{self.postgres_user}:{self.postgres_password}@{HOST}:{POSTGRES}/propertypulse"

    @property
    def dotenv(self) -> str:
        """The text of the API's .env file."""
        return f"""\
# PropertyPulse API. Holds secrets: mode 0600, never in git.
NODE_ENV=production
PORT=5000

# connection_limit counts for each worker
DATABASE_URL={self.database_url}

# Signs the access and refresh tokens
JWT_SECRET={self.jwt_secret}

# Stripe Dashboard > Developers
STRIPE_SECRET_KEY={self.stripe_secret_key}
STRIPE_WEBHOOK_SECRET={self.stripe_webhook_secret}
STRIPE_API_BASE={url(STRIPE)}

# Uploads: IAM user {IAM_USER}
AWS_ACCESS_KEY_ID={self.aws_access_key_id}
AWS_SECRET_ACCESS_KEY={self.aws_secret_access_key}
AWS_REGION={REGION}
S3_BUCKET={BUCKET}
S3_ENDPOINT={url(AWS)}

SENDGRID_API_KEY={self.sendgrid_api_key}
SENDGRID_API_BASE={url(SENDGRID)}

REDIS_URL=redis://:{self.redis_password}@{HOST}:{REDIS}/0

LOG_DIR={LOGS}
"""


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` at once, for its owner's eyes only."""
    part = path.with_name(f"{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)
