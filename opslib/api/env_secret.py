"""Which keys of the API's `.env` have secret values, by what they are called and by what they look like."""

import re
from collections.abc import Mapping

from opslib.api import log

_NAMED = {
    "SECRET",
    "SECRETS",
    "KEY",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "PWD",
    "PRIVATE",
    "CREDENTIALS",
    "SALT",
}
_PUBLIC = re.compile(
    r"^(?:VITE|NEXT_PUBLIC|REACT_APP|EXPO_PUBLIC|NUXT_PUBLIC|PUBLIC)_|(?:^|_)(?:PUBLIC|PUBLISHABLE)(?:_|$)"
)
_SHOWN = re.compile(
    r"pk_(?:live|test)_.*|true|false|[\w.~/-]+\.(?:json|pem|key|p8|p12|crt)|-----BEGIN (?:PUBLIC|CERTIFICATE).*",
    re.DOTALL | re.IGNORECASE,
)
_MADE = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])(?!\w+://)[^\s/]\S{15,}")
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|(?<![A-Za-z0-9])(?:gh[pousr]_|xox[abprs]-|glpat-)\w{8,}")


def keys(values: Mapping[str, str]) -> list[str]:
    """Give the keys whose values are secret, in the order of the file; an empty value is none."""
    return [key for key, value in values.items() if value and _secret(key, value)]


def _secret(key: str, value: str) -> bool:
    if _PUBLIC.search(key.upper()) or _SHOWN.fullmatch(value):
        return False
    if _PRIVATE.search(value) or log.redact(value) != value:
        return True
    words = re.split(r"[^A-Z]+", key.upper())
    last = next((word for word in reversed(words) if word not in ("", "PREVIOUS", "OLD", "NEW")), "")
    # ACCESS_KEY_ID holds one, TOKEN_LIFETIME and KEY_PREFIX do not: further inside, the value has to look like one.
    return last in _NAMED or (
        bool(_NAMED & {*words}) and "CLIENT_ID" not in key.upper() and bool(_MADE.fullmatch(value))
    )
