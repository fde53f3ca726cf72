"""The shapes of secrets that are known by their form: keys of Stripe, AWS and SendGrid, tokens, passwords in URLs.

A log may hold them although no environment names them.
"""

import re

_SHAPES = (
    # Of a database URL whatever stands before the last @: it is the malformed ones that get logged.
    (re.compile(r"(\b(?:postgres(?:ql)?|mysql|mongodb(?:\+srv)?|rediss?|amqps?)://[^\s:/@]*:)\S+@"), r"\1[…]@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/]+@", re.IGNORECASE), r"\1[…]@"),
    (re.compile(r"\b(Bearer|Basic)\s+(?=\S*\d|\S{16})[\w.~+/-]{8,}=*", re.IGNORECASE), r"[\1…]"),
    (re.compile(r"(?<![A-Za-z0-9])((?:sk|rk)_(?:live|test)|whsec)_[\w+/-]{8,}=*"), r"[\1…]"),
    (re.compile(r"(?<![A-Za-z0-9])(AKIA|ASIA)[A-Z0-9]{12,}|(?<![A-Za-z0-9])(SG)\.[\w-]{8,}\.[\w-]{8,}"), r"[\1\2…]"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{5,}(?:\.[\w-]*)+"), "[JWT…]"),
)


def hidden(text: str) -> str:
    """Give the text with the beginning of each such secret in its place."""
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text
