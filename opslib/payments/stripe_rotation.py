"""A rotation of the Stripe key or webhook secret: its stage, the two values, and what the `.env` gets.

The order of writes makes it safe to be killed: both values are in the staging file before the `.env` has the new one,
and the old one is forgotten last, when Stripe or the API have been seen to refuse it.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Literal

from opslib.api.rollout import rollout, tidy
from opslib.deployment import env_file, reference
from opslib.deployment.environment import Deployment
from opslib.deployment.staged import Staged
from opslib.payments.stripe_account import refused, settings
from opslib.payments.webhook import STALE
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import BadParameter

Stage = Literal["key", "retire-key", "webhook", "retire-webhook"]
KEY_NAME, SECRET_NAME = "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"
IN_FORCE, BEFORE, MADE_UP = "the secret in force", "the one before", "one made up"
LOOKBACK = 3600
"""Seconds before the webhook secret is switched in which events may have been refused, had the old one expired then."""
MARGIN = 2
"""Seconds by which the switch is taken to have begun earlier, as events are stamped to the second."""


@dataclass(frozen=True)
class Rotation:
    """One stage. `new` is the value that is or will be in force, `old` the one before it, or empty."""

    environment: Deployment
    stage: Stage
    staged: Staged
    new: str = field(repr=False)
    old: str = field(repr=False)
    resumed: bool
    """Whether the `.env` has the values of this stage already: a run wrote them, and some workers may not have them."""
    began: float
    """When the switch began, in seconds since 1970; of one that was cut short, when it wrote the `.env`."""

    @property
    def retires(self) -> bool:
        """Whether this stage takes away the old value, rather than bringing the new one."""
        return self.stage.startswith("retire")

    @property
    def webhook(self) -> bool:
        """Whether this is about the webhook secret, rather than the key."""
        return self.stage.endswith("webhook")

    @property
    def key(self) -> str:
        """The API key that is or will be in force."""
        return Staged(self.environment, KEY_NAME).current if self.webhook else self.new

    @property
    def keys(self) -> dict[str, str]:
        """The API keys to ask Stripe about by name, that one first. One that is to be unused is not used to ask."""
        replaces = self.stage == "key" and self.old
        return {"new": self.new, "old": self.old} if replaces else {"in force": self.key}

    @property
    def secrets(self) -> dict[str, str]:
        """The webhook secrets to try on the live route: the one in force, the one before, one that is made up."""
        held = Staged(self.environment, SECRET_NAME)
        before = self.old if self.webhook else held.previous
        return {IN_FORCE: held.current, BEFORE: before, MADE_UP: "whsec_madeup"}

    @property
    def answers_before(self) -> dict[str, str]:
        """What the live route must say to each before this stage changes anything."""
        return {MADE_UP: "refused"} | ({} if self.resumed else {IN_FORCE: "taken"})

    @property
    def answers_after(self) -> dict[str, str]:
        """What it must say at the end of this stage."""
        gone = {BEFORE: "refused"} if self.stage == "retire-webhook" else {}
        return {IN_FORCE: "taken", f"{IN_FORCE}, {STALE} s old": "refused", MADE_UP: "refused"} | gone

    def values(self) -> dict[str, str | None]:
        """What the `.env` gets in this stage; nothing if it stays as it is."""
        previous = f"{SECRET_NAME}_PREVIOUS"
        if self.stage == "key":
            return {KEY_NAME: self.new}
        if self.stage == "webhook":
            return {SECRET_NAME: self.new, **({previous: self.old} if self.old else {})}
        return {previous: None} if self.stage == "retire-webhook" else {}

    def switch(self, *, settle: float) -> list[Change]:
        """Make the changes that bring the values of this stage to the workers; none where the `.env` stays as it is."""
        title = (
            f"Take the old {self.staged.key} from the workers"
            if self.retires
            else (f"Give the workers the new {self.staged.key}, one after the other")
        )
        rolled = [rollout(self.environment, title, self.values(), settle=settle)] if self.values() else []
        return rolled if self.retires else [self.keep(), *rolled]

    def keep(self) -> Change:
        """Make the change that puts both values beside the `.env`, before anything uses the new one."""

        def do() -> None:
            if self.staged.pending != self.new:
                self.staged.discard()
            self.staged.create(lambda: self.new)
            if not self.staged.previous:  # else the one in force never was Stripe's, and is given up for the right one
                self.staged.keep()

        file = self.staged.file.name
        return Change(
            f"Keep the old and the new {self.staged.key} beside the .env",
            [act(f"write {self.staged.key}_PENDING and {self.staged.key}_PREVIOUS to {file} (mode 0600)", run=do)],
            undo=[act(f"remove them from {file}, unless the new one is in force", run=self.staged.discard)],
            replaces=self._state,
        )

    def close(self) -> Change:
        """Make the change that ends the stage: the new value noted as the one in force, or the old one forgotten."""

        def do() -> None:
            if self.retires:
                self.staged.retire()
            else:
                self.staged.finish()
            tidy(self.environment)

        file = self.staged.file.name
        kept = f"{self.staged.key}_PREVIOUS"
        return Change(
            f"Forget the old {self.staged.key}" if self.retires else f"Note that the new {self.staged.key} is in force",
            [
                act(
                    f"remove {kept} from {file}" if self.retires else f"remove {self.staged.key}_PENDING from {file}",
                    "remove the backups of the .env, which hold secrets",
                    run=do,
                )
            ],
            undo=Kept("this cannot be taken back"),
            replaces=lambda: f"{kept} fingerprint {named(self.old)}",
        )

    def row(self) -> dict[str, str]:
        """A row of evidence: the fingerprints of the values, and whether a run that was cut short is carried on."""
        return self.staged.row() | {"given": named(self.new), "carried on": "yes" if self.resumed else "no"}

    def old_key_refused(self) -> tuple[bool, dict[str, str]]:
        """Whether Stripe refuses the old key, where this stage retires it and one is kept."""
        if self.stage != "retire-key" or not self.old:
            return True, {"old key": "kept" if self.old and not self.webhook else "none to retire"}
        return refused(self.environment, self.old)

    def _state(self) -> str:
        row = self.staged.row()
        return ", ".join(f"{name} {row[name]}" for name in ("in force", "before")) + f"; new {named(self.new)}"


def begin(environment: Deployment, stage: Stage, *, new_secret: str = "") -> Rotation:
    """Find out where a rotation stands. The reference, or the environment's, is read where a stage brings a new value.

    What a run that was killed has staged serves where a reference leads nowhere any more. Changes nothing.
    """
    named = settings(environment)
    staged = Staged(environment, SECRET_NAME if stage.endswith("webhook") else KEY_NAME)
    new = staged.current
    if stage in ("key", "webhook"):
        given = new_secret or (named.new_key if stage == "key" else named.new_webhook_secret)
        try:
            new = reference.resolve(given, staged.key)
        except BadParameter:
            if not staged.pending:
                raise
            new = staged.pending
    bringing = stage == "key" and new != staged.current
    old = staged.current if bringing or (stage == "webhook" and not staged.previous) else staged.previous
    now, file = time.time(), environment.api.env_file
    earlier = LOOKBACK if stage == "webhook" else MARGIN
    rotation = Rotation(environment, stage, staged, new, old, False, now - earlier)
    found = env_file.read(file)
    if any(found.get(key) != value for key, value in rotation.values().items()):
        return rotation
    return replace(rotation, resumed=True, began=min(file.resolve().stat().st_mtime, now) - earlier)


def named(value: str) -> str:
    """Name a value by its fingerprint."""
    return env_file.fingerprint(value) if value else "none"
