"""A Stripe stage: when it may begin, and what to do where it may not."""

from datetime import UTC, date, datetime, timedelta

from opslib.payments.stripe_account import KEY, settings
from opslib.payments.stripe_rotation import Rotation, named

LEAKED = "leaked"


def obstacle(rotation: Rotation, *, last_used: str = "") -> str:
    """Say why this stage may not begin now, and what to do; empty if it may.

    `last_used` is when the Dashboard says that the old key was last used, or `leaked` if it must go at once.
    """
    staged = rotation.staged
    if not rotation.retires:
        return _wrong_value(rotation) or _unfinished(rotation)
    if staged.pending:
        stage = rotation.stage.removeprefix("retire-")
        return f"A switch of {staged.key} was begun and has not ended. Run the stage {stage!r} to its end first."
    if rotation.old and rotation.old == rotation.new:
        return f"The value kept as the one before is in force. Look into {staged.file.name} before you go on."
    if rotation.webhook or not rotation.old or last_used == LEAKED:
        return ""
    return _not_quiet(last_used, settings(rotation.environment).quiet_hours, staged.age)


def _wrong_value(rotation: Rotation) -> str:
    wanted, new = settings(rotation.environment), rotation.new
    if rotation.webhook:
        good = new.startswith("whsec_") and len(new) > len("whsec_")
        return "" if good else "The new webhook secret does not begin with whsec_. Copy it from the endpoint's page."
    if (form := KEY.fullmatch(new)) is None:
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
    if previous not in ("", current) and pending != new and not rotation.webhook:
        return f"The one before, {named(previous)}, is not retired yet. Run the stage 'retire-key' first."
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
