"""x"""

from typing import Any


def discover(*a: Any) -> list[Any]:
    return []
