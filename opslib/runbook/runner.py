"""The runner: takes a procedure and its parameters, and gives the execution of it with its record."""

import asyncio
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.runbook import environment as environments, ledger, procedure as procedures, record
from opslib.runbook.environment import Environment, Limits
from opslib.runbook.errors import BadParameter, Refused, RunbookError
from opslib.runbook.kernel import Kernel
from opslib.runbook.mask import mask
from opslib.runbook.procedure import Procedure
from opslib.runbook.session import operator
from opslib.runbook.step import Step, now

if TYPE_CHECKING:
    from opslib.runbook.execution import Execution

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run(
    procedure: Procedure,
    given: Mapping[str, object],
    *,
    path: Path | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> "Execution":
    """Run a procedure headless; the record lies at `path`, or where records lie.

    A parameter that does not fit is refused before a kernel starts, in a record that says so. Raise Refused where there
    is no place for a record: the environment is not known either, or `path` has another record, or had.
    """
    started, identity = now(), uuid.uuid4().hex[:8]
    given = meant(procedure, given)
    environment = environments.load(str(given.get("environment", "sandbox")), new=procedure.describes)
    path = path or record.path(environment.name, procedure.name, started, identity)
    refusal, values, kernel = "", {}, None
    about = {"id": identity, "procedure": procedure.name, "environment": environment.name, "started": started}
    unbegun = {**about, "process": record.process()}
    ledger.claim(path, record.dumps({"metadata": {"opslib": unbegun}, "cells": []}))
    try:
        mask.know(environment.values())
        values = bind(procedure, given)
        # The kernel takes half a second to come up; the imports below take as long beside it.
        kernel = Kernel(run=identity, record=path, cwd=procedures.root())
    except Refused as error:
        refusal = str(error)
    except (OSError, RunbookError) as error:
        path.unlink()  # nothing of this run has happened
        raise RunbookError(f"no kernel can be started: {error}") from None
    try:
        # Nothing is awaited before there is an execution, so none of the signals is told to one that is not there.
        with _signals(lambda number: execution.stop(number)):
            from opslib.runbook.execution import Execution

            about |= describe(procedure, environment, values)
            notebook = procedure.copy(values)
            execution = Execution(notebook, about, path, environment.limits if values else Limits(), on_step)
            if kernel is None:
                execution.refuse(refusal)
            else:
                await execution.run(kernel)
            return execution
    finally:
        if kernel is not None:
            kernel.end()


def bind(procedure: Procedure, given: Mapping[str, object]) -> dict[str, Any]:
    """Check the given values and give all of them; none may hold a secret that is known by now."""
    values = procedure.bind(given)
    for name, value in values.items():
        if mask.tree(value) != value:
            raise BadParameter(f"parameter {name} holds a secret: name the secret instead, never its value")
    return values


def meant(procedure: Procedure, given: Mapping[str, object]) -> dict[str, object]:
    """Give the parameters with the environment that is meant where none is named. Raise BadEnvironment for several."""
    declared = procedure.parameters.get("environment")
    if declared is None or "environment" in given:
        return dict(given)
    named = str(declared.default)
    return {**given, "environment": named if procedure.describes else environments.default(named)}


def describe(procedure: Procedure, environment: Environment, values: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a record says of its run before it has begun."""
    return {
        "procedure": procedure.name,
        "title": procedure.title,
        "digest": procedure.digest,
        "commit": commit(),
        "environment": environment.name,
        "operator": operator(),
        "parameters": dict(values),
        **{key: values.get(key, "") for key in ("reason", "incident")},
        "apply": bool(values.get("apply", False)),
    }


@contextmanager
def _signals(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Have these signals stop the run instead of the process, also while its modules are still being read."""
    loop = asyncio.get_running_loop()
    numbers = [one for one in STOPPING if signal.getsignal(one) is not signal.SIG_IGN]  # ignored by nohup, say
    with suppress(RuntimeError, ValueError):  # not in the main thread: then the caller has the signals
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(RuntimeError, ValueError):
                loop.remove_signal_handler(number)


def commit() -> str:
    """The commit that the procedures are at, with `-dirty` behind it if files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=procedures.root(),
            capture_output=True,
            text=True,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
