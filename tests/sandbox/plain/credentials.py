"""The secrets of one start of the plain stand-in, and the `.env` that holds those of its API."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from typing import Self
from urllib.parse import quote

from ..credentials import REGION, Credentials as Shared, write_private
from ..layout import AWS, HOST, POSTGRES, SENDGRID, STRIPE, url
from .layout import API, CREDENTIALS, GOOGLE

ROLE = DATABASE = "pulse"
BUCKET = "pulse-uploads"
IAM_USER = "pulse-app"
PROJECT = "propertypulse-plain"
CERTIFICATES = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"


@dataclass(kw_only=True)
class Credentials:
    """What is secret of the plain stand-in alone; the servers' administrators are those of the first."""

    # With characters that a URL must have percent-encoded, as real passwords do.
    database_password: str = field(
        default_factory=lambda: f"{secrets.token_hex(12)}#{secrets.token_hex(4)}%", repr=False
    )
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    stripe_secret_key: str = field(default_factory=lambda: f"sk_test_{secrets.token_hex(32)}", repr=False)
    stripe_new_secret_key: str = field(default_factory=lambda: f"sk_test_{secrets.token_hex(32)}", repr=False)
    stripe_webhook_secret: str = field(default_factory=lambda: f"whsec_{secrets.token_hex(16)}", repr=False)
    stripe_new_webhook_secret: str = field(default_factory=lambda: f"whsec_{secrets.token_hex(16)}", repr=False)
    aws_access_key_id: str = ""
    aws_secret_access_key: str = field(default="", repr=False)
    seeded_intents: list[str] = field(default_factory=list)
    """No secrets, but to be forgotten by Stripe with these."""
    firebase_private_key: str = field(default="", repr=False)
    # What a browser signs in with at Firebase: the key is public there.
    firebase_web_key: str = field(default_factory=lambda: f"AIza{secrets.token_urlsafe(26)}")
    login_email: str = "oncall@propertypulse.example"
    login_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @classmethod
    def load(cls) -> Self:
        """Read the credentials of the running plain stand-in."""
        return cls(**json.loads(CREDENTIALS.read_text()))

    def save(self) -> None:
        """Write the credentials for administrators to read."""
        write_private(CREDENTIALS, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def database_url(self) -> str:
        """The address that the API connects to, as Prisma writes it."""
        password = quote(self.database_password, safe="")
        return f"postgresql://{ROLE}:{password}@{HOST}:{POSTGRES}/{DATABASE}?schema=public"

    def dotenv(self, shared: Shared, *, reminder_seconds: float) -> str:
        """The text of the API's .env file."""
        pem = self.firebase_private_key.replace("\n", "\\n")
        return f"""\
NODE_ENV=production
PORT={API}

DATABASE_URL={self.database_url}

# Secret for signing JWT tokens, 32 characters or more
JWT_SECRET={self.jwt_secret}

# Firebase > Project settings > Service accounts
FIREBASE_PROJECT_ID={PROJECT}
FIREBASE_CLIENT_EMAIL=firebase-adminsdk@{PROJECT}.iam.gserviceaccount.com
FIREBASE_PRIVATE_KEY="{pem}"
FIREBASE_CERTS_URL={url(GOOGLE)}{CERTIFICATES}

STRIPE_SECRET_KEY={self.stripe_secret_key}
STRIPE_WEBHOOK_SECRET={self.stripe_webhook_secret}
STRIPE_API_BASE={url(STRIPE)}

AWS_ACCESS_KEY_ID={self.aws_access_key_id}
AWS_SECRET_ACCESS_KEY={self.aws_secret_access_key}
AWS_REGION={REGION}
S3_BUCKET={BUCKET}
AWS_ENDPOINT_URL={url(AWS)}

SENDGRID_API_KEY={shared.sendgrid_api_key}
SENDGRID_API_BASE={url(SENDGRID)}
EMAIL_FROM=no-reply@propertypulse.example

REMINDER_INTERVAL_SECONDS={reminder_seconds:g}
"""
