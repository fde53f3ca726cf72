"""An approval: the digest of one plan, which a second person has read and signed, until it expires.

The signature is one of `ssh-keygen -Y sign` (OpenSSH 8.2 or newer; PROTOCOL.sshsig) over the words of `_words`, checked
against the environment's file of allowed signers, whose lines are `LOGIN namespaces="runbook" KEY` (ssh-keygen(1)).
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.runbook import change as changes, listing, program, record
from opslib.runbook.environment import Environment
from opslib.runbook.errors import CommandFailed, NotApproved, Refused

NAMESPACE = "runbook"
_VARIABLES = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}


@dataclass(frozen=True)
class Approval:
    """Who approved which plan, and until when; times are UTC, ISO 8601."""

    digest: str
    environment: str
    procedure: str
    by: str
    at: str
    expires: str
    signature: str


def plan(digest: str) -> tuple[listing.Summary, dict[str, Any]]:
    """Give the newest record that shows the plan of this digest, and the step that shows it.

    What is shown is what is approved: a step whose content does not have its digest is passed over. Raise Refused if
    no record shows that plan.
    """
    for one in listing.records():
        for step in record.steps(json.loads(one.path.read_bytes())):
            whole = str(step.get("digest", "")) if step["step"] == "plan" and "context" in step else ""
            if digest in (whole, changes.short(whole)) and changes.digest(step["context"], step["changes"]) == whole:
                return one, step
    raise Refused(f"no record shows a plan {digest[:40]!a}. Run the procedure without --apply, and take its digest.")


def sign(digest: str, *, environment: Environment, procedure: str, by: str, key: Path, hours: float) -> Approval:
    """Sign the plan of this digest and keep the signature where `check` finds it. Raise Refused if that fails."""
    at = datetime.now(UTC).replace(microsecond=0)
    unsigned = Approval(
        digest, environment.name, procedure, by, at.isoformat(), (at + timedelta(hours=hours)).isoformat(), ""
    )
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        words.write_bytes(_words(unsigned))
        try:
            program.run(["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(words)], env=_VARIABLES)
        except CommandFailed as error:
            raise Refused(f"the plan could not be signed with {key}: {error}") from None
        signed = Approval(**{**asdict(unsigned), "signature": words.with_suffix(".sig").read_text()})
    check_signature(signed, environment)
    record.save(_file(environment, digest), json.dumps(asdict(signed), indent=1).encode())
    return signed


def check(digest: str, *, environment: Environment, procedure: str, operator: str) -> Approval:
    """Give the signed approval of a plan. Raise NotApproved if it is missing, one's own, expired or not genuine."""
    how = f"Ask somebody else to read it and to run: runbook approve {changes.short(digest)}"
    try:
        found = Approval(**json.loads(_file(environment, digest).read_text()))
    except FileNotFoundError:
        raise NotApproved(f"{procedure} in {environment.name} asks for a second person's approval. {how}") from None
    except (OSError, ValueError, TypeError) as error:
        raise NotApproved(f"the approval of plan {changes.short(digest)} cannot be read ({error}). {how}") from None
    if (found.digest, found.environment, found.procedure) != (digest, environment.name, procedure):
        raise NotApproved(
            f"the approval is for another plan, {changes.short(found.digest)} of {found.procedure}. {how}"
        )
    if found.by in _logins(operator):
        raise NotApproved(f"{found.by} cannot approve what {found.by} runs. {how}")
    check_signature(found, environment)
    if datetime.fromisoformat(found.expires) < datetime.now(UTC):
        raise NotApproved(f"the approval by {found.by} expired at {found.expires}. {how}")
    return found


def check_signature(approval: Approval, environment: Environment) -> None:
    """Raise NotApproved unless an allowed signer of this name has signed just these words."""
    if environment.signers is None:
        raise NotApproved(f"parameters/{environment.name}.yaml names no file of allowed signers; set `signers` in it")
    with tempfile.TemporaryDirectory() as folder:
        signature = Path(folder) / "signature"
        signature.write_text(approval.signature)
        words = [
            "-Y",
            "verify",
            "-f",
            str(environment.signers),
            "-I",
            approval.by,
            "-n",
            NAMESPACE,
            "-s",
            str(signature),
        ]
        try:
            program.run(["ssh-keygen", *words], env=_VARIABLES, given=_words(approval))
        except CommandFailed as error:
            raise NotApproved(
                f"the signature of {approval.by!a} is not one that {environment.signers} allows: {error}"
            ) from None


def _words(approval: Approval) -> bytes:
    signed = asdict(approval)
    del signed["signature"]
    return json.dumps(signed, sort_keys=True).encode()


def _file(environment: Environment, digest: str) -> Path:
    return record.folder() / environment.name / "approvals" / f"{digest}.json"


def _logins(operator: str) -> Iterator[str]:
    """The login names in what a record says of its operator: `alice`, or `alice as deploy`."""
    yield from operator.split(" as ")
