"""A key stage: one part of a key's rotation, when it may begin, what still needs the old key, and how it leaves IAM."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opslib.aws.access_key import LIMIT, AccessKeys, Key, utc
from opslib.aws.key_pair import ID, short
from opslib.runbook.errors import RunbookError

AGAIN = timedelta(hours=1)
"""For how long a finished rotation that is run again is taken to be the same one."""


def problem(keys: AccessKeys, stage: str) -> str:
    """Say why this stage cannot be run with the keys as they are, and what to do; empty if it can."""
    found = {key.id: key for key in keys.listed()}
    current, before = keys.staged.current, keys.staged.previous
    if not current or current.id not in found or found[current.id].status != "Active":
        return f"The {ID} of the .env is no active key of {keys.settings.user}: see whose key the API uses."
    if stage == "rotate":
        return "" if finished(keys) or _room(keys, found) else _crowded(keys, list(found.values()))
    if stage == "delete" and before is None and len(found) == 1:
        return ""
    if before is None or keys.staged.pending or keys.staged.since is None or before.id == current.id:
        return "No finished rotation has left a key behind: run the stage rotate to its end first."
    if stage == "delete":
        inactive = before.id not in found or found[before.id].status == "Inactive"
        return "" if inactive else f"The key {before} is still active: run the stage deactivate first."
    return "" if before.id in found else f"IAM has no key {before} any more: run the stage delete to forget it."


def finished(keys: AccessKeys) -> bool:
    """Whether a rotation has ended so lately that running it again means that one."""
    since, before = keys.staged.since, keys.staged.previous
    if not since or not before or keys.staged.pending or datetime.now(UTC) - since > AGAIN:
        return False
    return before.id in (key.id for key in keys.listed())


def needed(keys: AccessKeys, stage: str, quiet: float) -> list[str]:
    """Say what still needs the old key: signed URLs, or somebody who uses it.

    `quiet` are the seconds for which it must have been unused before it is made inactive, and then inactive before it
    is deleted. Uploads with URLs that it signed are uses for s3, and are expected until the last URL has run out.
    """
    before, since, now = keys.staged.previous, keys.staged.since, datetime.now(UTC)
    old = next((key for key in keys.listed() if before and key.id == before.id), None)
    if stage not in ("deactivate", "delete") or old is None or since is None:
        return []
    calm = timedelta(seconds=quiet)
    if stage == "delete":
        inactive = keys.staged.inactive or now
        return _why(now - inactive < calm, f"inactive since {utc(inactive)}; {quiet:g} s are asked for")
    if old.status == "Inactive":
        return []
    over = since + timedelta(seconds=keys.settings.presigned)
    used = old.used or old.created
    foreign = used >= over or (used >= since and old.service != "s3")
    return [
        *_why(now < over, f"URLs that were signed with it are good until {utc(over)}"),
        *_why(foreign, f"used at {utc(used)} for {old.service}, and the API signs with another since {utc(since)}"),
        *_why(now - used < calm, f"used at {utc(used)}; {quiet:g} s without use are asked for"),
    ]


def as_left(keys: AccessKeys, stage: str) -> tuple[bool, list[dict[str, str]]]:
    """Whether IAM has the keys as the stage is to leave them: the one in force, and the old one as it should be."""
    try:
        listed = keys.listed()
    except RunbookError as error:
        return False, [{"problem": str(error)}]
    found, before = {key.id: key.status for key in listed}, keys.staged.previous
    wanted = {keys.pair.id: "Active"}
    if before and stage != "delete":
        statuses = {"deactivate": "Inactive", "reactivate": "Active", "rotate": found.get(before.id, "")}
        wanted |= {before.id: statuses[stage]} if statuses[stage] else {}
    return found == wanted, keys.rows(listed)


def _room(keys: AccessKeys, found: dict[str, Key]) -> bool:
    pending = keys.staged.pending
    return bool(pending and pending.id in found) or len(found) - len(keys.lost()) < LIMIT


def _crowded(keys: AccessKeys, found: Sequence[Key]) -> str:
    current, before = keys.staged.current, keys.staged.previous
    least = min((k for k in found if not current or k.id != current.id), key=lambda key: key.used or key.created)
    used = f"last used {utc(least.used)}" if least.used else f"never used, created {utc(least.created)}"
    todo = (
        "It is left from the last rotation: run the stages deactivate and delete first."
        if before and before.id == least.id
        else "Find out whose it is, and let its owner delete it: this procedure never does that to make room."
    )
    return (
        f"The user has {len(found)} keys, and AWS allows {LIMIT}. Of the others {short(least.id)} was used least "
        f"recently ({used}). {todo}"
    )


def _why(is_so: bool, text: str) -> list[str]:
    return [text] if is_so else []
