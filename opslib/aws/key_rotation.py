"""Key rotation: the changes by which a new access key replaces the one in force, and the old one is taken away.

Each may be stopped anywhere and made again. The order of what is written, by which a run that is run again knows how
far it came: a note that a key is asked for · the key · both halves staged · the pair before, kept · the `.env` · the
workers, one by one · a note that the new key is in force. Undone in the opposite order.
"""

from dataclasses import replace

from opslib.api import pm2, replacement
from opslib.api.rollout import closing, rollout
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import ID, SECRET
from opslib.runbook.act import Act, Later, act
from opslib.runbook.change import Change
from opslib.runbook.errors import UndoFailed
from opslib.runbook.procedure import located


def create(keys: AccessKeys) -> Change:
    """Make the second key, or take the one that a run before has made."""
    staged, file = keys.staged, located(keys.staged.file)

    def undo() -> None:
        keys.settle()
        pending, current = staged.pending, staged.current
        if pending is None:
            return
        if current and current.id == pending.id:
            raise UndoFailed(f"The new key {pending} is in force, so it stays. Run rotate_s3_credentials again.")
        if staged.previous:
            # A run that died had begun to put it in force: a worker may still sign with it.
            before = [replace(worker, pid=0) for worker in pm2.workers(keys.environment)]
            replacement.put_back(keys.environment, before, reread=True)
        if not keys.maker:
            keys.deletion(pending.id).run()
        staged.discard()

    lost = [f"{keys.deletion(key.id).shown}, which was made and whose secret got lost" for key in keys.lost()]
    late = "delete the key that an unanswered call has made, if IAM lists one"
    begun = staged.previous is not None and staged.pending is not None  # a run that died may have put it in force
    reloads = replacement.commands(keys.environment, pm2.workers(keys.environment)) if begun else []
    deletes = f"iam.delete_access_key(UserName={keys.settings.user!r}, AccessKeyId=‹that of the new key›)"
    made = [
        f"note in {file} which keys there are",
        f"iam.create_access_key(UserName={keys.settings.user!r}), once more if it is not answered",
        f"write its two halves to {file}, mode 0600",
    ]
    if keys.maker:
        made = [f"write the pair from {keys.settings.new_pair} to {file}, mode 0600; nothing uses it yet"]
        back = [*reloads, f"remove it from {file}; it stays at {keys.maker}"]
    else:
        back = [late, *reloads, deletes, f"remove it from {file}"]
    return Change(
        "Stage the new pair" if keys.maker else "Create the second access key",
        [
            *([act(*(lost or [late]), run=keys.settle)] if staged.asked else []),
            act(*([f"take {staged.pending}, which is staged"] if staged.pending else made), run=keys.make),
        ],
        undo=[act(*back, run=undo)],
        replaces=keys.describe,
    )


def switch(keys: AccessKeys, *, settle: float) -> Change:
    """Put the new pair into the `.env` and have one worker after the other read it."""
    values = {
        ID: Later("that of the new key", lambda: keys.pair.id),
        SECRET: Later("that of the new key", lambda: keys.pair.secret),
    }
    rolled = rollout(keys.environment, "Put the new key in force", values, settle=settle)

    file = located(keys.staged.file)
    keep = act(f"keep the pair in force beside the new one in {file}", run=keys.staged.keep)
    release = act(f"in {file}, keep only the new pair as the one to come", run=keys.staged.release)
    return replace(rolled, acts=[keep, *rolled.acts], undo=[*rolled.way_back, release])


def close(keys: AccessKeys) -> Change:
    """Note that the new key is in force, and drop the backups of the `.env`, which hold the old secret."""
    noted = f"note in {located(keys.staged.file)} that the new key is in force"
    return closing(keys.environment, act(noted, run=keys.staged.finish))


def turn(keys: AccessKeys, status: str) -> Change:
    """Make the old key Inactive, or Active again."""
    old, file = keys.old, located(keys.staged.file)

    def to(wanted: str) -> list[Act]:
        off = wanted == "Inactive"
        noted = f"note in {file} {'since when it is' if off else 'that it is no longer'} inactive"
        return [keys.turning(old.id, wanted), act(noted, run=lambda: keys.staged.deactivated(off))]

    back = "Active" if status == "Inactive" else "Inactive"
    return Change(f"Make the key {old} {status.lower()}", to(status), undo=to(back), replaces=keys.describe)
