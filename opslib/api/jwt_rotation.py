"""Signing: which secret signs the API's tokens, which one it accepts besides, and the changes from one to the next.

The API signs with JWT_SECRET and accepts JWT_SECRET_PREVIOUS too. A rotation is four states of these two keys:

| standing | JWT_SECRET | JWT_SECRET_PREVIOUS | staged |
| --- | --- | --- | --- |
| `idle` | old | | nothing, or the new one |
| `offered` | old | new | new as pending |
| `signing` | new | old | new as pending, old as previous |
| `overlap` | new | old | old as previous, and since when |

Each edit of the `.env` writes both keys at once, and what it needs is staged before it: whichever state a killed run
leaves, `found` names it, and `rotation` and `retirement` give the changes that are still to be made.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from opslib.api import jwt
from opslib.api.rollout import Value, rollout, tidy
from opslib.api.settings import Tokens
from opslib.deployment import env_file
from opslib.deployment.environment import Deployment
from opslib.deployment.staged import Staged
from opslib.runbook.act import Later, act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import CheckFailed
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located

KEY, PREVIOUS = "JWT_SECRET", "JWT_SECRET_PREVIOUS"


def staged(environment: Deployment) -> Staged:
    """The secret that signs, with the one to come and the one before."""
    return Staged(environment, KEY)


def found(environment: Deployment) -> str:
    """Say where the rotation stands: idle, offered, signing or overlap."""
    pending, accepted = staged(environment).pending, _accepted(environment)
    if pending and pending == staged(environment).current:
        return "signing"
    if pending and pending == accepted:
        return "offered"
    return "overlap" if accepted else "idle"


def old(environment: Deployment) -> str:
    """Give the secret that signed before the one in force; empty if it is not known."""
    offered = found(environment) == "offered"
    return "" if offered else _accepted(environment) or staged(environment).previous


def left(environment: Deployment) -> float:
    """Seconds until no token signed with the old secret can be valid; infinite if it is not known since when."""
    tokens = environment.find(Tokens)
    if tokens is None or not old(environment):
        return 0.0
    return tokens.longest - staged(environment).age if staged(environment).since else inf


def rotation(environment: Deployment, *, compromised: bool, settle: float) -> tuple[Sequence[Change], Sequence[Change]]:
    """Give the changes that are left until the new secret signs: those that only offer it, those that switch to it."""
    standing = found(environment)
    if standing == "overlap" and not compromised:
        return [], []
    make = [] if staged(environment).pending else [_make(environment)]
    if standing == "signing" or compromised:
        return [], [*make, _sign(environment, standing, compromised, settle)]
    return [*make, _offer(environment, settle)], [_sign(environment, standing, compromised, settle)]


def retirement(environment: Deployment, *, settle: float) -> Sequence[Change]:
    """Give the changes that are left until the old secret is refused. Raise CheckFailed if a rotation is unfinished."""
    if (standing := found(environment)) in ("offered", "signing"):
        raise CheckFailed(f"a rotation was begun and not finished ({standing}). Run stage rotate first.")
    if not old(environment):
        return []
    return [rollout(environment, "Refuse the old secret", {PREVIOUS: None}, settle=settle)]


def close(environment: Deployment, *, retire: bool) -> Change:
    """Make the change that ends a stage: says in the staging file how far it came, and drops the `.env`'s backups."""
    secret = staged(environment)

    def do() -> None:
        secret.finish()
        if retire or not _accepted(environment):
            secret.retire()
        tidy(environment)

    kept = "forget the old secret" if retire else "keep the old secret there until it is retired, if it is accepted"
    return Change(
        "Close this stage",
        [act(f"in {located(secret.file)}: nothing is pending; {kept}", "remove the backups of the .env", run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: located(secret.file),
    )


def _make(environment: Deployment) -> Change:
    secret = staged(environment)
    return Change(
        "Make the new secret",
        [
            act(
                f"write 64 random bytes to {located(secret.file)}, mode 0600; nothing uses them yet",
                run=lambda: secret.create(jwt.make),
            )
        ],
        undo=[act("forget it", run=secret.discard)],
        replaces=lambda: f"staged: {_named(secret.pending)}",
    )


def _offer(environment: Deployment, settle: float) -> Change:
    pending = Later("the staged secret: accepted, not signed with", lambda: staged(environment).pending)
    return rollout(environment, "Accept the new secret everywhere", {PREVIOUS: pending}, settle=settle)


def _sign(environment: Deployment, standing: str, compromised: bool, settle: float) -> Change:
    secret = staged(environment)
    values: dict[str, Value] = {KEY: Later("the staged secret", lambda: secret.pending)}
    if compromised:
        values[PREVIOUS] = None
    elif standing != "signing":
        # Of a run that died after its edit, the file is right: it may have been one that refuses the old secret.
        values[PREVIOUS] = Later("the one that signed until then", lambda: secret.previous)
    # What is accepted besides is replaced by the change before this one already.
    rolled = rollout(environment, "Sign with the new secret", values, replaces=[KEY], settle=settle)
    keep = act(f"keep the secret in force as {KEY}_PREVIOUS in {located(secret.file)}", run=secret.keep)
    return replace(rolled, acts=[keep, *rolled.acts])


def _accepted(environment: Deployment) -> str:
    value = env_file.read(environment.api.env_file).get(PREVIOUS, "")
    if value:
        mask.add(PREVIOUS, value)
    return value


def _named(value: str) -> str:
    return f"fingerprint {env_file.fingerprint(value)}" if value else "not set"
