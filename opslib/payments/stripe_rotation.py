"""A rotation of the Stripe key or webhook secret: the two values, what the `.env` gets, and where it stands.

The order of writes makes it safe to be killed: both values are in the staging file before the `.env` has the new one,
and the old one is forgotten last, when Stripe or the API have been seen to refuse it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from opslib.api import release
from opslib.api.rollout import tidy
from opslib.deployment import env_file, secret_reference
from opslib.deployment.deployment import Deployment
from opslib.deployment.staged_secret import Staged
from opslib.payments.stripe_account import settings
from opslib.runbook.act import Act, act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter

KEY, SECRET = "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"
PREVIOUS = f"{SECRET}_PREVIOUS"
"""Where the API finds the second webhook secret that it takes."""
LOOKBACK = 3600
"""Seconds before the webhook secret is switched in which events may have been refused, had the old one expired then."""
MARGIN = 2
"""Seconds by which the switch is taken to have begun earlier, as events are stamped to the second."""


@dataclass(frozen=True)
class Rotation:
    """`new` is the value that is or will be in force, `old` the one before it, or empty."""

    environment: Deployment
    staged: Staged
    new: str = field(repr=False)
    old: str = field(repr=False)
    values: Mapping[str, str | None] = field(repr=False)
    """What the `.env` gets."""
    began: float
    """When the switch began, in seconds since 1970; of one that was cut short, when it wrote the `.env`."""
    resumed: bool = False
    """Whether the `.env` has the values already: a run wrote them, and some workers may not have them."""

    @property
    def beside(self) -> str:
        """The old webhook secret where the API goes on taking it beside the new one, else empty."""
        return self.values.get(PREVIOUS) or ""

    @property
    def taken(self) -> str:
        """The webhook secret that the API takes before the switch."""
        return self.beside or self.staged.current

    @property
    def keys(self) -> dict[str, str]:
        """The API keys by name, the new one first."""
        return {name: key for name, key in {"new": self.new, "old": self.old}.items() if key}


def of_key(environment: Deployment, given: str = "") -> Rotation:
    """Find out where the rotation of the key stands; `given` is a reference to the new one, else the environment's.

    What a run that was killed has staged serves where a reference leads nowhere any more. Changes nothing.
    """
    staged = Staged(environment, KEY)
    new = _new(staged, given or settings(environment).new_key)
    old = staged.current if new != staged.current else staged.previous
    return _begun(Rotation(environment, staged, new, old, {KEY: new}, time.time() - MARGIN), MARGIN)


def of_secret(environment: Deployment, given: str = "") -> Rotation:
    """Find out where the rotation of the webhook secret stands, as `of_key` does."""
    staged = Staged(environment, SECRET)
    new = _new(staged, given or settings(environment).new_webhook_secret)
    old = staged.previous or staged.current
    values = {SECRET: new, **({PREVIOUS: old} if old and takes_two(environment) else {})}
    return _begun(Rotation(environment, staged, new, old, values, time.time() - LOOKBACK), LOOKBACK)


def takes_two(environment: Deployment) -> Answer:
    """Whether the code takes what the secret before has signed too: whether it names that."""
    alone = (
        f"No code names {PREVIOUS}: from the switch on the API takes the new secret alone. That loses nothing while "
        "Stripe signs with both, as it does if the old one was given time to expire. If it was: "
        "-p accept_new_alone True"
    )
    return Answer(bool(found := release.naming(environment, PREVIOUS)), found, alone)


def retirement(environment: Deployment) -> Rotation:
    """Find out where the retirement of the old webhook secret stands."""
    staged = Staged(environment, SECRET)
    values = {PREVIOUS: None}
    return _begun(Rotation(environment, staged, staged.current, staged.previous, values, time.time() - MARGIN), MARGIN)


def keep(rotation: Rotation) -> Change:
    """Make the change that stages both values, before anything uses the new one."""
    staged, file = rotation.staged, rotation.staged.file.name

    def create() -> None:
        if staged.pending != rotation.new:
            staged.discard()
        staged.create(lambda: rotation.new)

    def previous() -> None:
        if not staged.previous:  # else the one in force never was Stripe's, and is given up for the right one
            staged.keep()

    return Change(
        f"Stage the old and the new {staged.key}",
        [
            act(f"write {staged.key}_PENDING (fingerprint {named(rotation.new)}) to {file} (mode 0600)", run=create),
            act(f"write {staged.key}_PREVIOUS (fingerprint {named(rotation.old)}) to {file}", run=previous),
        ],
        undo=[act(f"remove them from {file}, unless the new one is in force", run=staged.discard)],
        replaces=lambda: f"{staged.key} in force {named(staged.current)}, before {named(staged.previous)}",
    )


def finish(rotation: Rotation) -> Change:
    """Make the change that notes the new value as the one in force."""
    staged = rotation.staged
    noted = act(f"remove {staged.key}_PENDING from {staged.file.name}, and note the time", run=staged.finish)
    return _ended(staged, f"Note that the new {staged.key} is in force", noted, lambda: rotation.old)


def forget(staged: Staged) -> Change:
    """Make the change that forgets the old value."""
    noted = act(f"remove {staged.key}_PREVIOUS from {staged.file.name}", run=staged.retire)
    return _ended(staged, f"Forget the old {staged.key}", noted, lambda: staged.previous)


def _ended(staged: Staged, title: str, noted: Act, previous: Callable[[], str]) -> Change:
    return Change(
        title,
        [noted, tidy(staged.environment)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: f"{staged.key}_PREVIOUS fingerprint {named(previous())}",
    )


def in_force(environment: Deployment, key: str) -> str:
    """Give the value of a key in the `.env`, masked."""
    return Staged(environment, key).current


def named(value: str) -> str:
    """Name a value by its fingerprint."""
    return env_file.fingerprint(value) if value else "none"


def _new(staged: Staged, given: str) -> str:
    try:
        return secret_reference.resolve(given, staged.key)
    except BadParameter:
        if not staged.pending:
            raise
        return staged.pending


def _begun(rotation: Rotation, earlier: float) -> Rotation:
    """Say of a rotation whether a run has written its values into the `.env` already, and when."""
    file = rotation.environment.api.env_file
    found = env_file.read(file)
    if any(found.get(key) != value for key, value in rotation.values.items()):
        return rotation
    return replace(rotation, resumed=True, began=min(file.resolve().stat().st_mtime, time.time()) - earlier)
