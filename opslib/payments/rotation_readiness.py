"""Readiness of a rotation: when that of Stripe's key or webhook secret may begin, and when an old value may go."""

from datetime import UTC, date, datetime, timedelta

from opslib.deployment.deployment import Deployment
from opslib.deployment.staged_secret import Staged
from opslib.payments.stripe_account import KEY, refused, settings
from opslib.payments.stripe_rotation import SECRET, Rotation, named
from opslib.runbook.answer import Answer

LEAKED = "leaked"
OVERLAP_HOURS = 22
"""Hours in which the old webhook secret must be retired: the Dashboard lets it live for 24."""


def begins(rotation: Rotation) -> Answer:
    """Whether the new value is of its kind, and no earlier rotation stands in the way."""
    found = rotation.staged.row() | {"given": named(rotation.new), "carried on": rotation.resumed}
    wrong = _wrong_secret(rotation) if rotation.staged.key == SECRET else _wrong_key(rotation)
    obstacle = wrong or _unfinished(rotation)
    return Answer(not obstacle, found, obstacle)


def retires(staged: Staged, procedure: str) -> Answer:
    """Whether a value is in force that takes the place of the old one; `procedure` is what brings it there."""
    if staged.pending:
        return Answer(False, staged.row(), f"A switch of {staged.key} has begun and not ended. Run {procedure} again.")
    mixed = bool(staged.previous) and staged.previous == staged.current
    return Answer(not mixed, staged.row(), f"The one kept as before is in force. Look into {staged.file.name}.")


def quiet(environment: Deployment, staged: Staged, last_used: str) -> Answer:
    """Whether nobody uses the old key any more.

    Nobody does where Stripe refuses it, or none is kept. Else `last_used` says when the Dashboard says that was, or
    `leaked` if it must go at once.
    """
    if not staged.previous or refused(environment, staged.previous):
        return Answer(True, {"the old key": "refused by Stripe" if staged.previous else "none is kept"})
    found = {"in force since": staged.since, "the old one last used": last_used or "not said"}
    obstacle = "" if last_used == LEAKED else _not_quiet(last_used, settings(environment).quiet_hours, staged.age)
    return Answer(not obstacle, found, obstacle)


def expired(environment: Deployment, staged: Staged) -> Answer:
    """Whether Stripe refuses the old key, if one is kept."""
    if not staged.previous:
        return Answer(True, {"the old key": "none is kept: it was forgotten before"})
    return refused(environment, staged.previous)


def due(hours: float) -> datetime:
    """Give the time so many hours from now."""
    return (datetime.now(UTC) + timedelta(hours=hours)).replace(microsecond=0)


def _wrong_secret(rotation: Rotation) -> str:
    good = rotation.new.startswith("whsec_") and len(rotation.new) > len("whsec_")
    return "" if good else "The new webhook secret does not begin with whsec_. Copy it from the endpoint's page."


def _wrong_key(rotation: Rotation) -> str:
    wanted = settings(rotation.environment)
    if (form := KEY.fullmatch(rotation.new)) is None:
        return "The new key does not begin with sk_ or rk_ and live_ or test_. Copy a secret or restricted key."
    if form["mode"] != wanted.mode:
        return f"The new key is of {form['mode']} mode, this environment of {wanted.mode} mode. Create one of that."
    return ""


def _unfinished(rotation: Rotation) -> str:
    staged, new = rotation.staged, rotation.new
    pending, previous, current = staged.pending, staged.previous, staged.current
    if new == current:
        if pending == current or previous:
            return ""  # begun by a run that was killed, or ended: it is carried on, or done over
        return f"The new {staged.key} is the one in force already. Create another one in the Dashboard."
    if pending == current:
        return f"A switch to {named(pending)} was begun and has not ended. Run again with that value first."
    if previous not in ("", current) and pending != new and staged.key != SECRET:
        return f"The one before, {named(previous)}, is not retired yet. Run retire_stripe_key first."
    return ""


def _not_quiet(last_used: str, hours: int, age: float) -> str:
    """Say why the old key may still be in use: `last_used` is a date or a time, as the Dashboard shows it."""
    quiet = timedelta(hours=hours)
    if age < quiet.total_seconds():
        return f"The new key is in force for {age / 3600:.1f} h, expected {hours} h at least. Wait, then run again."
    try:
        if len(last_used) == len("2026-01-31"):
            used = datetime.combine(date.fromisoformat(last_used), datetime.max.time(), UTC)
        else:
            used = datetime.fromisoformat(last_used)
            used = used if used.tzinfo else used.replace(tzinfo=UTC)
    except ValueError:
        return (
            "Say when the old key was last used, as Developers > API keys in the Dashboard shows it: "
            f"-p old_key_last_used 2026-01-31, or with the time, in UTC; {LEAKED!r} if it must go at once."
        )
    if datetime.now(UTC) - used < quiet:
        return (
            f"The old key was used less than {hours} h ago ({last_used}). Find out by whom, and switch that over first."
        )
    return ""
