"""A change: one thing that acts, shown before it does, with its undo."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """What will be done, to what, and how it is taken back.

    `shows` are the very commands, SQL or calls that `do` will make. `replaces` reads what is there now: the plan shows
    it, and a plan is void once the answer is another. `undo` must also serve a change that was stopped half way; None
    says that there is no way back. `undo` returns nothing, and raises UndoFailed if it could not put things back.
    """

    title: str
    shows: Sequence[str]
    do: Callable[[], object]
    replaces: Callable[[], str]
    undo: Callable[[], object] | None = None
    undo_shows: Sequence[str] = ()

    def describe(self) -> dict[str, str]:
        """Give what the plan says of this change, for machines."""
        return {
            "change": self.title,
            "does": "; ".join(self.shows),
            "to": self.replaces(),
            "undo": "; ".join(self._way_back),
        }

    def lines(self, number: int, to: str) -> list[dict[str, str]]:
        """Give its lines in the plan's table, for people: a row for each thing done, and each of its way back."""
        groups = {str(number): [self.title], "does": self.shows, "to": [to], "undo": self._way_back}
        return [{"change": "" if i else what, "": text} for what, said in groups.items() for i, text in enumerate(said)]

    @property
    def _way_back(self) -> Sequence[str]:
        if self.undo is None:
            return ["none: this cannot be taken back"]
        return self.undo_shows or ["as it was before"]


def digest(context: dict[str, Any], rows: Sequence[dict[str, str]]) -> str:
    """Give the digest of a plan: 16 hexadecimal digits over what it is for and what it shows."""
    content = json.dumps([context, list(rows)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
