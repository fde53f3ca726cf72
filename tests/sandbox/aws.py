"""The AWS account: two buckets, an administrator, and the API's user, who may use one bucket only."""

import json
from http.client import HTTPConnection
from typing import Any

from .credentials import BACKUP_BUCKET, BUCKET, IAM_USER, REGION, Credentials
from .layout import AWS, HOST, url
from .part import Part, server

ADMINISTRATOR = "propertypulse-admin"


def part() -> Part:
    """Return AWS as a part of the stand-in."""
    return server("aws_server", port=AWS, path="/moto-api/")


def create_account(credentials: Credentials) -> None:
    """Create the buckets and users, then have every call checked against IAM."""
    s3, iam = _client("s3"), _client("iam")
    for bucket in (BUCKET, BACKUP_BUCKET):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=BACKUP_BUCKET, VersioningConfiguration={"Status": "Enabled"})

    admin = create_user(iam, ADMINISTRATOR, [{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    credentials.aws_admin_access_key_id, credentials.aws_admin_secret_access_key = admin
    actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"]
    own_bucket = [
        {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::{BUCKET}/*"},
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": f"arn:aws:s3:::{BUCKET}"},
    ]
    application = create_user(iam, IAM_USER, own_bucket)
    credentials.aws_access_key_id, credentials.aws_secret_access_key = application
    _check_every_call()


def _client(service: str) -> Any:
    # Here, because the import takes half a second that most commands need not wait for.
    import boto3

    return boto3.client(
        service, endpoint_url=url(AWS), region_name=REGION, aws_access_key_id="setup", aws_secret_access_key="setup"
    )


def create_user(iam: Any, name: str, statements: list[dict[str, Any]]) -> tuple[str, str]:
    """Create a user who may do this, and give their access key."""
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _check_every_call() -> None:
    connection = HTTPConnection(HOST, AWS, timeout=5)
    # The body is the number of calls that are still let through unchecked.
    connection.request("POST", "/moto-api/reset-auth", body="0")
    connection.getresponse().read()
    connection.close()
