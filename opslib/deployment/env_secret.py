"""Which keys of the API's `.env` have secret values, by what they are called and by what they look like."""

import re
from collections.abc import Mapping

from opslib.runbook import secret_shape

OPTIONAL = "_PREVIOUS"
"""What the name of a secret ends in that is there only while it is being replaced."""

_SECRET = r"SECRETS?|PASSWORD|PASSWD|PASSPHRASE|TOKEN|CREDENTIALS?"
_NAMED = re.compile(rf"\w*(?:{_SECRET})|(?:API|ACCESS)?KEY|PASS|PWD|PRIVATE|SALT")
_AGES = ("", "V", "PREVIOUS", "OLD", "NEW")
_PUBLIC = re.compile(
    r"^(?:VITE|NEXT_PUBLIC|REACT_APP|EXPO_PUBLIC|NUXT_PUBLIC|PUBLIC)_|(?:^|_)(?:PUBLIC|PUBLISHABLE)(?:_|$)"
)
_SHOWN = re.compile(
    r"pk_(?:live|test)_.*|true|false|[\w.~/-]+\.(?:json|pem|key|p8|p12|crt)|-----BEGIN (?:PUBLIC|CERTIFICATE).*",
    re.DOTALL | re.IGNORECASE,
)
_MADE = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])(?!\w+://)[^\s/]\S{15,}")
_PRIVATE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bpassword=\S|(?<![A-Za-z0-9])(?:gh[pousr]_|xox[abprs]-|glpat-)\w{8,}"
)


def keys(values: Mapping[str, str]) -> list[str]:
    """Give the keys whose values are secret, in the order of the file; an empty value is none."""
    return [key for key, value in values.items() if value and _secret(key.upper(), value)]


def _secret(key: str, value: str) -> bool:
    if _PUBLIC.search(key) or _SHOWN.fullmatch(value):
        return False
    if _PRIVATE.search(value) or secret_shape.hidden(value) != value:
        return True
    named = [bool(_NAMED.fullmatch(word)) for word in re.split(r"[^A-Z]+", key) if word not in _AGES]
    # ACCESS_KEY_ID holds one, TOKEN_LIFETIME and KEY_PREFIX do not: further inside, the value has to look like one.
    return any(named[-1:]) or (any(named) and "CLIENT_ID" not in key and bool(_MADE.fullmatch(value)))
