"""What the plain stand-in has at the shared servers: at Stripe a key and an endpoint, at AWS a user and a bucket."""

from contextlib import suppress
from typing import Any

from ..aws import create_user
from ..credentials import REGION, Credentials as Shared, write_private
from ..errors import SandboxError
from ..fault import stripe
from ..layout import AWS, url
from .credentials import BUCKET, IAM_USER, Credentials
from .layout import ADMIN, API

ENDPOINT = "we_1PropertyPulsePlain"
EVENTS = ["payment_intent.succeeded", "payment_intent.payment_failed"]


def create_at_stripe(credentials: Credentials) -> None:
    """Have Stripe know the keys, and send events to the API, signed with a secret of its own."""
    for key in (credentials.stripe_secret_key, credentials.stripe_new_secret_key):
        stripe("/_sandbox/keys", secret=key)
    stripe(
        "/_sandbox/webhook_endpoints",
        id=ENDPOINT,
        url=f"{url(API)}/api/webhooks/stripe",
        secret=credentials.stripe_webhook_secret,
        enabled_events=EVENTS,
    )
    # Where a person would put what the Stripe Dashboard has shown once.
    write_private(ADMIN / "new_stripe_secret_key", credentials.stripe_new_secret_key)
    write_private(ADMIN / "new_stripe_webhook_secret", credentials.stripe_new_webhook_secret)


def leave_stripe(credentials: Credentials) -> None:
    """Have Stripe forget the endpoint, the keys, and the intents that were only made for the seeded payments."""
    with suppress(SandboxError, OSError):
        stripe("/_sandbox/payment_intents/forget", ids=credentials.seeded_intents)
        stripe("/_sandbox/webhook_endpoints/forget", id=ENDPOINT)
        for key in (credentials.stripe_secret_key, credentials.stripe_new_secret_key):
            stripe("/_sandbox/keys/expire", secret=key)


def create_at_aws(shared: Shared, credentials: Credentials) -> None:
    """Create the bucket and the user who may use it; one that an earlier start has left gets a new key."""
    s3, iam = _client("s3", shared), _client("iam", shared)
    s3.create_bucket(Bucket=BUCKET)
    with suppress(iam.exceptions.NoSuchEntityException):
        for key in iam.list_access_keys(UserName=IAM_USER)["AccessKeyMetadata"]:
            iam.delete_access_key(UserName=IAM_USER, AccessKeyId=key["AccessKeyId"])
        iam.delete_user_policy(UserName=IAM_USER, PolicyName=IAM_USER)
        iam.delete_user(UserName=IAM_USER)
    own_bucket: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"],
            "Resource": f"arn:aws:s3:::{BUCKET}/*",
        },
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": f"arn:aws:s3:::{BUCKET}"},
    ]
    credentials.aws_access_key_id, credentials.aws_secret_access_key = create_user(iam, IAM_USER, own_bucket)


def _client(service: str, shared: Shared) -> Any:
    # Here, because the import takes half a second that most commands need not wait for.
    import boto3

    return boto3.client(
        service,
        endpoint_url=url(AWS),
        region_name=REGION,
        aws_access_key_id=shared.aws_admin_access_key_id,
        aws_secret_access_key=shared.aws_admin_secret_access_key,
    )
