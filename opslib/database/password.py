"""A password for PostgreSQL: made here, or chosen by a person and such that all clients read it as the same."""

import secrets
import stringprep
import unicodedata

from opslib.deployment import secret_reference
from opslib.runbook.errors import BadParameter

SHORTEST = 16


def make() -> str:
    """Make one of 43 random characters, none of which a URL has to encode."""
    return secrets.token_urlsafe(32)


def chosen(where: str) -> str:
    """Give the password that a reference names. Raise BadParameter if clients could read it in different ways."""
    value = secret_reference.resolve(where, "password")
    if len(value) < SHORTEST:
        raise BadParameter(f"password: expected {SHORTEST} characters or more; leave it empty to have one made")
    # libpq normalizes a password (SASLprep, RFC 4013) and node-postgres does not: with these the two would not agree.
    if unicodedata.normalize("NFKC", value) != value or any(map(_ambiguous, value)):
        raise BadParameter("password: it has characters that clients read in different ways; choose another")
    return value


def _ambiguous(character: str) -> bool:
    return (
        stringprep.in_table_b1(character)
        or stringprep.in_table_c12(character)
        or stringprep.in_table_c21_c22(character)
    )
