"""A proof: a line of an environment's file, and the question that shows whether the world is as the line says.

All are asked side by side, as they wait for others most of the time. What is not answered in time is not waited for.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from opslib.deployment import secret_reference
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, RunbookError
from opslib.runbook.procedure import located, root

T = TypeVar("T")

LONGEST = 12.0
"""Seconds in which all lines are to be proven."""


@dataclass(frozen=True)
class Proof:
    """A line and its question, whose evidence is a sentence that says what was found. What it raises is no answer."""

    key: str
    """Where the line stands, as `stripe.payments.unit`."""
    asks: str
    """Who is asked, to be named if no answer comes."""
    ask: Callable[[], Answer]


def answers(proofs: Sequence[Proof], *, within: float = LONGEST) -> Iterator[tuple[str, Answer]]:
    """Ask all side by side, for so many seconds; give each line with its answer, in their order. Never raises."""
    ends, asked = time.monotonic() + within, [(proof, Future[Answer]()) for proof in proofs]
    for proof, answer in asked:
        # A thread that hangs must not keep the process from ending, as those of a pool do.
        threading.Thread(target=_ask, args=(proof, answer), daemon=True).start()
    said = dict[str, str]()
    for proof, answer in asked:
        try:
            found = answer.result(timeout=max(0, ends - time.monotonic()))
        except TimeoutError:
            late = f"{proof.asks} has not answered within {within:g} s"
            yield proof.key, Answer(None, late, "See whether it is well, and whether the file names the right place.")
            continue
        first = proof.key if found else said.setdefault(str(found.evidence), proof.key)
        # What many lines rest on is said once.
        yield proof.key, Answer(None, f"see {first}") if found.ok is None and first != proof.key else found


def once(find: Callable[[], T]) -> Callable[[], T]:
    """Have a value found once for all proofs that rest on it; where that raises, it does so for each of them."""
    found, first = Future[T](), threading.Lock()

    def give() -> T:
        if first.acquire(blocking=False):
            try:
                found.set_result(find())
            except BaseException as error:
                found.set_exception(error)
        return found.result()

    return give


def reference(text: str, name: str, *, until: str = "") -> Answer:
    """Whether a reference leads to a value. `until` says what it may be missing until."""
    kind, _, where = text.partition(":")
    absent = kind == "env" and where not in os.environ
    absent |= kind == "file" and not (root() / Path(where).expanduser()).exists()
    if kind == "ask":
        return Answer(True if until else None, "a person is asked for it", "Another reference can be proven.")
    if absent and until:
        return Answer(True, f"nothing is there yet, nor need it be until {until}")
    try:
        secret_reference.resolve(text, name)
    except BadParameter as error:
        return Answer(False, str(error))
    return Answer(True, "there is a value")


def writable(folder: Path) -> str:
    """Say why this user can write no file into a folder, or make the folder first; empty if they can."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{located(there)} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"this user may not write into {located(there)}"


def _ask(proof: Proof, answer: Future[Answer]) -> None:
    try:
        answer.set_result(proof.ask())
    except RunbookError as error:
        answer.set_result(Answer(None, str(error)))
    except Exception as error:  # of a library, whose words may hold anything
        answer.set_result(Answer(None, f"{proof.asks} could not be asked ({type(error).__name__})"))
