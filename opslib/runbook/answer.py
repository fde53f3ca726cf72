"""An answer: yes, no or cannot tell, with the values that it rests on and what to do where it is not yes."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`ok` is None where it cannot be told. True only if it is yes; `evidence` is values, never text made of them."""

    ok: bool | None
    evidence: Any = None
    otherwise: str = ""

    def __bool__(self) -> bool:
        return self.ok is True


def answered(given: Any, evidence: Any = None, otherwise: str = "") -> Answer:
    """Give what a question was answered with as an Answer: one, a truth value, or a pair of that and its evidence.

    `evidence` and `otherwise` stand for what the answer does not bring itself.
    """
    if isinstance(given, Answer):
        return Answer(given.ok, evidence if given.evidence is None else given.evidence, given.otherwise or otherwise)
    if isinstance(given, tuple):
        ok, evidence = given
        return Answer(bool(ok), evidence, otherwise)
    return Answer(bool(given), evidence, otherwise)
