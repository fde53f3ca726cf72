"""What the administrators hold, each in a file that only they may read: what the references in an environment name."""

import json

from .credentials import Credentials, write_private
from .layout import ADMIN


def write(credentials: Credentials) -> None:
    """Write the files."""
    ADMIN.mkdir(mode=0o700, exist_ok=True)
    aws = {
        "Version": 1,
        "AccessKeyId": credentials.aws_admin_access_key_id,
        "SecretAccessKey": credentials.aws_admin_secret_access_key,
    }
    login = {"email": credentials.login_email, "password": credentials.login_password}
    for name, content in (("aws", aws), ("login", login)):
        write_private(ADMIN / f"{name}.json", json.dumps(content) + "\n")
