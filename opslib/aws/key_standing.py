"""How the access keys stand: whether there is room for a second one, whether the old one may go, and what IAM has."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opslib.aws.access_key import LIMIT, AccessKeys, Key, utc
from opslib.aws.key_pair import ID, short
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter, RunbookError


def administered(keys: AccessKeys) -> Answer:
    """Whether somebody else asks than the user whose keys change, who could lock themselves out."""
    if keys.maker:
        known = {"in force": keys.staged.current, "before": keys.staged.previous}
        said = "What becomes of the key before is done in its console: see there that nothing uses it any more."
        return Answer(None, known, f"There is no IAM at {keys.maker}. {said}")
    asked = {"asks": keys.caller, "user": keys.arn}
    return Answer(keys.caller != keys.arn, asked, "Put an administrator's credentials where s3.administrator points.")


def in_force(keys: AccessKeys) -> Answer:
    """Whether the key of the `.env` is an active one of the user's."""
    current, listed = keys.staged.current, keys.listed()
    active = [key.id for key in listed if key.status == "Active"]
    said = f"The {ID} of the .env is no active key of {keys.settings.user}: see whose key the API uses."
    return Answer(current is not None and current.id in active, keys.rows(listed), said)


def told(keys: AccessKeys) -> dict[str, str]:
    """Say of whom it is asked how the keys stand, and how a new one is made."""
    if not keys.maker:
        return {"keys": f"IAM is asked about {keys.settings.user}", "the new key": "is made here"}
    made = f"is made in its console, and read from {keys.settings.new_pair or 'nowhere'}"
    return {"keys": f"cannot tell here which there are: no IAM at {keys.maker}", "the new key": made}


def given(keys: AccessKeys) -> Answer:
    """Whether the pair that was made in another maker's console is another one than that in force."""
    current = keys.staged.current
    try:
        new = keys.given()
    except (BadEnvironment, BadParameter) as error:
        return Answer(False, {"in force": current}, f"{error}. Make a new pair in the console of {keys.maker}.")
    said = f"Make a new pair in the console, and put it where {keys.settings.new_pair} points: it has the one in force."
    begun = keys.staged.pending is not None  # a run that was cut short may have put it in force
    return Answer(current is not None and (begun or new.id != current.id), {"in force": current, "new": new}, said)


def next_step(keys: AccessKeys) -> dict[str, object]:
    """Say what is to be done about the key before, and when the last URL has run out that it signed."""
    if not keys.maker:
        return {"due": due(keys)}
    return {"due": due(keys), "do": f"delete {keys.staged.previous or 'the key before'} in the console of {keys.maker}"}


def room(keys: AccessKeys) -> Answer:
    """Whether the user may get another key, or has got it from a run that was cut short."""
    listed, pending = keys.listed(), keys.staged.pending
    begun = pending is not None and pending.id in (key.id for key in listed)
    free = begun or len(listed) - len(keys.lost()) < LIMIT
    return Answer(free, keys.rows(listed), "" if free else _crowded(keys, listed))


def left(keys: AccessKeys) -> Answer:
    """Whether a rotation has ended, and its old key is not deleted."""
    staged = keys.staged
    current, before = staged.current, staged.previous
    ended = before is not None and staged.since is not None and not staged.pending and before != current
    said = "No rotation that has ended has left a key behind. Run rotate_s3_credentials to its end first."
    return Answer(ended, None, said)


def unneeded(keys: AccessKeys, quiet: float) -> Answer:
    """Whether nothing needs the old key: neither URLs that it signed, nor somebody who has used it of late.

    `quiet` are the seconds for which it must have been unused. Uploads with URLs that it signed are uses for s3, and
    are expected until the last URL has run out.
    """
    old, since, now = _old(keys), keys.staged.since, datetime.now(UTC)
    if old is None or since is None:
        return Answer(False, None, f"IAM has no key {keys.old} any more: run delete_s3_key, which forgets it.")
    over = since + timedelta(seconds=keys.settings.presigned)
    used = old.used or old.created
    foreign = used >= over or (used >= since and old.service != "s3")
    reasons = {
        f"URLs that were signed with it are good until {utc(over)}": now < over,
        f"used at {utc(used)} for {old.service}, and the API signs with another since {utc(since)}": foreign,
        f"used at {utc(used)}; {quiet:g} s without use are asked for": now - used < timedelta(seconds=quiet),
    }
    why = [reason for reason, holds in reasons.items() if holds and old.status == "Active"]
    said = f"{'; '.join(why)}. Wait. If it is in wrong hands: -p accept_broken_uploads True"
    return Answer(not why, keys.rows([old]), said)


def rested(keys: AccessKeys, quiet: float) -> Answer:
    """Whether the old key has been inactive for so many seconds, or is gone already."""
    old, at = _old(keys), rested_at(keys, quiet)
    if old is None:
        return Answer(True)
    if old.status != "Inactive":
        return Answer(False, keys.rows([old]), f"The key {keys.old} is still active: run deactivate_s3_key first.")
    said = f"Inactive for {quiet:g} s are asked for, which is at {utc(at)}. Wait, and look whether uploads fail."
    return Answer(at <= datetime.now(UTC), keys.rows([old]), said)


def rested_at(keys: AccessKeys, quiet: float) -> datetime:
    """Give when the old key has been inactive for so many seconds; if it is active, as if it became so now."""
    return (keys.staged.inactive or datetime.now(UTC)) + timedelta(seconds=quiet)


def due(keys: AccessKeys) -> datetime:
    """Give when the last URL has run out that the old key signed: if a rotation has not ended, as if it did now."""
    return (keys.staged.since or datetime.now(UTC)) + timedelta(seconds=keys.settings.presigned)


def as_left(keys: AccessKeys, old: str) -> Answer:
    """Whether IAM has the key in force, active, and the one before in this status, or not at all if it is empty."""
    try:
        listed = keys.listed()
    except RunbookError as error:
        return Answer(None, [{"problem": str(error)}])
    before = keys.staged.previous
    wanted = {keys.pair.id: "Active"} | ({before.id: old} if before and old else {})
    return Answer({key.id: key.status for key in listed} == wanted, keys.rows(listed))


def _old(keys: AccessKeys) -> Key | None:
    return next((key for key in keys.listed() if key.id == keys.old.id), None)


def _crowded(keys: AccessKeys, found: Sequence[Key]) -> str:
    current, before = keys.staged.current, keys.staged.previous
    least = min((k for k in found if not current or k.id != current.id), key=lambda key: key.used or key.created)
    used = f"last used {utc(least.used)}" if least.used else f"never used, created {utc(least.created)}"
    todo = (
        "It is left from the last rotation: run deactivate_s3_key and delete_s3_key first."
        if before and before.id == least.id
        else "Find out whose it is, and let its owner delete it: this procedure never does that to make room."
    )
    return (
        f"The user has {len(found)} keys, and AWS allows {LIMIT}. Of the others {short(least.id)} was used least "
        f"recently ({used}). {todo}"
    )
