"""Signing: which secret signs the API's tokens, which one it accepts besides, and the changes from one to the next.

The API signs with JWT_SECRET and accepts JWT_SECRET_PREVIOUS too. A rotation is four states of these two keys:

| standing | JWT_SECRET | JWT_SECRET_PREVIOUS | staged |
| --- | --- | --- | --- |
| `idle` | old | | nothing, or the new one |
| `offered` | old | new | new as pending |
| `signing` | new | old | new as pending, old as previous |
| `overlap` | new | old | old as previous, and since when |

Each edit of the `.env` writes both keys at once, and what it needs is staged before it: whichever state a killed run
leaves, `found` names it, and `offers` and `sign` give the changes that are still to be made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from opslib.api import jwt, release
from opslib.api.rollout import Value, closing, rollout
from opslib.api.settings import Tokens
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.staged_secret import Staged
from opslib.runbook.act import Later, act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located

KEY, PREVIOUS = "JWT_SECRET", "JWT_SECRET_PREVIOUS"
IN_FORCE = "the secret in force"
UNREAD = (
    f"This API does not seem to check tokens with {KEY}: it refuses one signed with the secret in force, a false one "
    "and none at all alike. See how it knows people, and `tokens:` in the environment's file. To change the secret "
    "without proof, in one step: -p accept_unread_secret True"
)


@dataclass(frozen=True)
class Cost:
    """How many requests a plan asks the API with, and a run that applies besides; and how many the API allows."""

    plan: int
    apply: int
    limit: str
    left: str = field(default="", compare=False)
    anew: str = field(default="", compare=False)


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


def due(environment: Deployment) -> datetime | None:
    """Give when no token signed with the old secret can be valid any more; None if nobody knows since when it is old.

    Of a rotation that is still to come: what it would be, if it ended now.
    """
    begun = staged(environment).since if old(environment) else datetime.now(UTC)
    return begun + timedelta(seconds=environment.part(Tokens).longest) if begun else None


# What is asked before


def ended(environment: Deployment) -> Answer:
    """Whether the last rotation has ended: of two secrets that are accepted, the old one goes first."""
    until = due(environment)
    day = f"from {until:%Y-%m-%d} on" if until else "once you know that no valid token is signed with it"
    return Answer(
        found(environment) != "overlap",
        staged(environment).row(),
        f"The secret before is still accepted. Run retire_jwt_secret, {day}; if one has leaked, revoke_jwt_secret.",
    )


def finished(environment: Deployment) -> Answer:
    """Whether no rotation was cut short."""
    said = "A rotation was begun and not finished. Run rotate_jwt_secret again, or revoke_jwt_secret if that was it."
    return Answer(found(environment) not in ("offered", "signing"), staged(environment).row(), said)


def unneeded(environment: Deployment) -> Answer:
    """Whether the tokens signed with the old secret have all run out."""
    until = due(environment)
    if until is None:
        said = "Nobody knows since when the new secret signs, so tokens of the old one may be valid."
        return Answer(None, [], f"{said} To log their owners out: -p accept_mass_logout True")
    left = (until - datetime.now(UTC)).total_seconds()
    said = f"{left:.0f} s to go, {left / 86400:.1f} days: old tokens may still be valid. Run this again then."
    return Answer(left <= 0, {"the last one runs out": until}, f"{said} To log out: -p accept_mass_logout True")


def accepted(environment: Deployment) -> Answer:
    """Whether every worker accepts tokens signed with the secret in force, and refuses false ones.

    Where a run was cut short, a worker may have read another `.env`: then only garbage is judged. An API that refuses
    all alike does not check tokens with the secret; where its code names the key, that cannot be told.
    """
    secret = staged(environment)
    expected = {IN_FORCE: (secret.current, 200)}
    if found(environment) == "signing" or env_file.edits(environment.api.env_file, environment.place):
        expected = {IN_FORCE: (secret.current, 0), "the one before": (secret.previous, 0)}
    answer = jwt.prove(environment, expected, without=True)
    if answer.ok is None:
        return answer
    if unread(answer):
        return Answer(None if release.naming(environment, KEY) else False, answer.evidence, UNREAD)
    said = "Compare the .env with what runs, and `tokens:` in the environment's file with the API."
    if any(row.token == jwt.NO_TOKEN and 200 in row.statuses for row in answer.evidence):
        said = "The route asks for no token: name one that does, as `tokens.route` in the environment's file."
    return replace(answer, otherwise="" if answer else said)


def unread(asked: Answer) -> bool:
    """Whether the API refused each kind of token that `accepted` asked with, right and false and none, alike."""
    return {row.statuses for row in asked.evidence if row.asked} in ({frozenset({401})}, {frozenset({403})})


def named(environment: Deployment) -> list[release.Line] | str:
    """Give where the code names the key; says so where no code does."""
    return release.naming(environment, KEY) or f"no code of the API's own names {KEY}"


def affordable(asked: Answer, tokens: int) -> Answer:
    """Whether the API may be asked with so many tokens more, as a run that applies does; `asked` is from `accepted`.

    Also true where the API says nothing of a limit: it may have none.
    """
    each = max(row.asked for row in asked.evidence)
    limit = next((row.limit for row in reversed(asked.evidence) if row.limit), None)
    cost = Cost(sum(row.asked for row in asked.evidence), tokens * each, "not said")
    if limit is None:
        return Answer(True, cost)
    cost = replace(cost, limit=str(limit.of), left=str(limit.left), anew=f"in {limit.seconds} s")
    said = f"Run this again in {limit.seconds} s: a verify that is asked too often (429) cannot tell."
    return Answer(limit.left >= cost.apply, cost, said)


# What acts


def make(environment: Deployment) -> Sequence[Change]:
    """Make the change that stages a new secret; none where a run that was cut short has made it."""
    secret = staged(environment)
    shown = f"write 64 random bytes to {located(secret.file)}, mode 0600; nothing uses them yet"
    made = Change(
        "Make the new secret",
        [act(shown, run=lambda: secret.create(jwt.make))],
        undo=[act(f"remove them from {located(secret.file)}", run=secret.discard)],
        replaces=lambda: f"staged: {secret.row()['to come']}",
    )
    return [] if secret.pending else [made]


def offers(environment: Deployment, *, settle: float, unread: bool = False) -> Sequence[Change]:
    """Make the changes by which every worker accepts the new secret; none where a run that was cut short came so far.

    Nothing is signed with it yet. Of an API that reads neither secret only the new one is made.
    """
    if unread:
        return make(environment)
    new = Later("the new secret: accepted, not signed with", lambda: staged(environment).pending)
    offer = rollout(environment, "Accept the new secret everywhere", {PREVIOUS: new}, settle=settle)
    return [] if found(environment) == "signing" else [*make(environment), offer]


def sign(environment: Deployment, *, settle: float, unread: bool = False) -> Change:
    """Make the change by which the new secret signs, and the one that signed until then stays accepted.

    Of an API that reads neither, nothing is kept: the new one takes the old one's place.
    """
    if unread:
        return switch(environment, "Put the new secret in its place", {PREVIOUS: None}, settle=settle)
    before = Later("the one that signed until then", lambda: staged(environment).previous)
    # Of a run that died after its edit, the file is right: it may have been one that refuses the old secret.
    values: dict[str, Value] = {} if found(environment) == "signing" else {PREVIOUS: before}
    return switch(environment, "Sign with the new secret", values, settle=settle)


def switch(environment: Deployment, title: str, values: Mapping[str, Value], *, settle: float) -> Change:
    """Make the change by which the new secret signs, together with these values of other keys."""
    secret = staged(environment)
    both: dict[str, Value] = {KEY: Later("the new secret", lambda: secret.pending), **values}
    # What is accepted besides is replaced by the change before this one already.
    rolled = rollout(environment, title, both, replaces=[KEY], settle=settle)
    keep = act(f"keep the secret in force as {KEY}_PREVIOUS in {located(secret.file)}", run=secret.keep)
    return replace(rolled, acts=[keep, *rolled.acts])


def close(environment: Deployment) -> Change:
    """Make the change that ends a rotation, or the time after it."""
    secret = staged(environment)

    def note() -> None:
        secret.finish()
        if not _accepted(environment):
            secret.retire()

    shown = f"in {located(secret.file)}: nothing is pending; forget the old secret unless it is accepted"
    return closing(environment, act(shown, run=note))


def _accepted(environment: Deployment) -> str:
    value = env_file.read(environment.api.env_file).get(PREVIOUS, "")
    if value:
        mask.add(PREVIOUS, value)
    return value
