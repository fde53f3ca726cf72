"""A change: one thing that acts, shown before it does, with its undo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opslib.runbook.act import Act


@dataclass(frozen=True)
class Kept:
    """What stands in place of an undo: nothing is put back, and why.

    `matters` is False where what stays is no harm: a run that undoes the rest has then undone all that counts.
    """

    why: str
    matters: bool = True


@dataclass(frozen=True)
class Change:
    """What will be done, to what, and how it is taken back.

    `acts` run in their order, and the plan shows them, as it does those of `undo`. `replaces` reads what is there now:
    the plan shows it, and a plan is void once the answer is another. The acts of `undo` must also serve a change that
    was stopped half way.
    """

    title: str
    acts: Sequence[Act]
    undo: Sequence[Act] | Kept
    replaces: Callable[[], str]

    def do(self) -> None:
        """Run its acts, in their order."""
        for act in self.acts:
            act.run()

    def put_back(self, *, done: Callable[[Act], object] = lambda act: None) -> None:
        """Run the acts of its undo, and tell of each that is `done`.

        Raise UndoFailed, or whatever they raise, if something could not be put back.
        """
        for act in self.way_back:
            act.run()
            done(act)

    def describe(self) -> dict[str, Any]:
        """Give what the plan says of this change, for machines."""
        return {
            "change": self.title,
            "does": _lines(self.acts),
            "to": self.replaces(),
            "undo": self._undone,
        }

    def lines(self, number: int, to: str) -> list[dict[str, str]]:
        """Give its lines in the plan's table, for people: a row for each thing done, and each of its way back."""
        groups = {str(number): [self.title], "does": _lines(self.acts), "to": [to], "undo": self._undone}
        return [{"change": "" if i else what, "": text} for what, said in groups.items() for i, text in enumerate(said)]

    @property
    def way_back(self) -> Sequence[Act]:
        """The acts of its undo; none where nothing is put back."""
        return () if isinstance(self.undo, Kept) else self.undo

    @property
    def _undone(self) -> list[str]:
        return [f"none: {self.undo.why}"] if isinstance(self.undo, Kept) else _lines(self.undo)


def _lines(acts: Sequence[Act]) -> list[str]:
    return [line for act in acts for line in act.shown.splitlines()]
