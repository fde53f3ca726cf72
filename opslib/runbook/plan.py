"""A plan: the changes of a run with all that they rest on, the digest of that, and the command that carries it out."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from opslib.runbook import environment as environments, procedure as procedures, session
from opslib.runbook.environment import Environment
from opslib.runbook.mask import mask
from opslib.runbook.procedure import Procedure

SETTLED = ("apply", "approval", "reason", "incident")
"""The parameters that say nothing of what a plan does."""


def context(
    procedure: Procedure,
    environment: Environment,
    parameters: Mapping[str, Any],
    answers: Mapping[str, Any],
    others: Sequence[str],
) -> dict[str, Any]:
    """Give what the changes of a plan rest on: parameters, answers, and each thing that will carry them out.

    `others` are the cells that are `foreign` to the procedure.
    """
    file = environments.file(environment.name)
    described = file.read_bytes() if file.exists() else b""  # it is what this plan writes
    rests = {key: value for key, value in parameters.items() if key not in SETTLED}
    rests |= {"procedure": procedure.name, "source": procedure.digest, "code": procedures.code()}
    rests |= {"environment's file": hashlib.sha256(described).hexdigest(), "answers": dict(answers)}
    return rests | ({"cells that are not the procedure's": list(others)} if others else {})


def digest(context: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Give the digest of a plan: SHA-256 over what it is for and what it shows, in 64 hexadecimal digits."""
    content = json.dumps([context, list(rows)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def short(digest: str) -> str:
    """Give what people see and type of a digest: its first 16 digits."""
    return digest[:16]


def foreign(procedure: Procedure) -> list[str]:
    """Give the digest of each cell that this kernel was given and that is not the procedure's."""
    others = {one for one in session.sources() if not procedure.has(one)}
    return sorted(hashlib.sha256(one.encode()).hexdigest() for one in others)


def command(procedure: Procedure, environment: Environment, given: Mapping[str, Any], digest: str) -> str:
    """Give what is typed to carry a plan out, with `…` for what has still to be given, and how to get an approval."""
    declared, policy = procedure.parameters, environment.policy(procedure.name)
    words = ["runbook", "run", procedure.name, "-e", environment.name]
    for name, value in given.items():
        if name in declared and name not in (*SETTLED, "environment") and value != declared[name].default:
            words += ["-p", name, str(value)]
    words += [word for name in ("reason", "incident") if given[name] for word in (f"--{name}", given[name])]
    words += ["--apply", *(["--approval", short(digest)] if policy != "none" else [])]
    signed = f"once somebody else has signed it (runbook approve {short(digest)}), "
    return (signed if policy == "second-person" else "") + mask.text(shlex.join(words))
