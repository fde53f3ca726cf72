"""A reference: where a secret is, written where the secret itself must not be, as in a parameter.

| reference | the value is |
| --- | --- |
| `env:NAME` | in this environment variable of the process |
| `file:PATH` | the content of this file, which only its owner may read; a relative path starts at the root |
| `aws:NAME` | the current version of this secret in AWS Secrets Manager, read with the caller's own credentials |
| `ask:` | typed by a person into a password box in JupyterLab |
"""

import os
import stat
import threading
from pathlib import Path

from opslib.runbook.errors import BadParameter
from opslib.runbook.mask import mask
from opslib.runbook.procedure import root

KINDS = "env:NAME, file:PATH, aws:NAME or ask:"


def resolve(reference: str, name: str) -> str:
    """Give the value that a reference points at, masked as `name` from then on. Raise BadParameter if there is none.

    An error names the reference, never what was found there.
    """
    kind, _, where = reference.partition(":")
    if kind not in READERS or (kind != "ask" and not where):
        # What was given may be the secret itself, so it is not repeated.
        raise BadParameter(f"{name}: expected a reference ({KINDS}) and found something else; never pass the value")
    value = READERS[kind](where, name)
    if not value:
        raise BadParameter(f"{name}: {reference} is empty; put the value there and run again")
    mask.add(name, value)
    return value


def _variable(where: str, name: str) -> str:
    if where not in os.environ:
        raise BadParameter(f"{name}: the environment variable {where} is not set; set it and start the run again")
    return os.environ[where]


def _file(where: str, name: str) -> str:
    path = root() / Path(where).expanduser()
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise BadParameter(f"{name}: {path} is not a file")
        if mode & 0o077:
            raise BadParameter(
                f"{name}: {path} has mode {mode & 0o777:04o}, expected 0600: others could read the secret"
            )
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(f"{name}: {path} cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from None


def _manager(where: str, name: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return str(boto3.client("secretsmanager").get_secret_value(SecretId=where)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        raise BadParameter(f"{name}: AWS Secrets Manager did not give {where}: {error}") from None


def _person(where: str, name: str) -> str:
    from opslib.runbook.session import headless

    # In another thread nobody could answer either: the terminal, or JupyterLab's box, is the main one's.
    if headless() or threading.current_thread() is not threading.main_thread():
        raise BadParameter(f"{name}: nobody is there to ask; use another reference ({KINDS})")
    from getpass import getpass

    return getpass(f"{name}: ")


READERS = {"env": _variable, "file": _file, "aws": _manager, "ask": _person}
