"""Key rotation: the changes by which a new access key replaces the one in force, and the old one goes.

Each may be stopped anywhere and made again. The order of what is written, by which a run that is run again knows how
far it came: a note that a key is asked for · the key · both halves staged · the pair before, kept · the `.env` · the
workers, one by one · a note that the new key is in force. Undone in the opposite order.
"""

from dataclasses import replace

from opslib.api import pm2
from opslib.api.rollout import rollout, tidy
from opslib.aws import key_stage
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import ID, SECRET, short
from opslib.deployment import env_file
from opslib.runbook.act import Later, act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import UndoFailed
from opslib.runbook.procedure import located


def stage(keys: AccessKeys, name: str, *, settle: float) -> tuple[list[Change], list[Change], list[Change]]:
    """Give the changes of a stage: those before the key is proven, those that need the proof, and the closing notes."""
    if name == "rotate":
        if key_stage.finished(keys):
            # A run that died may have left a backup, which holds the old secret.
            return [], [], [finish(keys)] if env_file.edits(keys.environment.api.env_file) else []
        return [create(keys)], [switch(keys, settle=settle)], [finish(keys)]
    if name == "delete":
        return ([], [delete(keys)], [forget(keys)]) if keys.staged.previous else ([], [], [])
    return [], [turn(keys, "Inactive" if name == "deactivate" else "Active")], []


def create(keys: AccessKeys) -> Change:
    """Make the second key, or take the one that a run before has made."""
    user, staged = keys.settings.user, keys.staged
    lost = [f"{_call(keys, 'delete', short(key.id))}, which was made and whose secret got lost" for key in keys.lost()]
    asks = f"take {staged.pending}, which is staged" if staged.pending else f"iam.create_access_key(UserName={user!r})"

    def undo() -> None:
        keys.settle()
        pending, current = staged.pending, staged.current
        if pending is None:
            return
        if current and current.id == pending.id:
            raise UndoFailed(f"The new key {pending} is in force, so it stays. Run the stage rotate again.")
        if staged.previous:
            # A run that died had begun to put it in force: a worker may still sign with it.
            before = [replace(worker, pid=0) for worker in pm2.workers(keys.environment)]
            pm2.put_back(keys.environment, before, reread=True)
        keys.delete(pending.id)
        staged.discard()

    return Change(
        "Create the second access key",
        [act(*lost, asks, run=keys.make)],
        undo=[act("delete the new key, once no worker signs with it", run=undo)],
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


def finish(keys: AccessKeys) -> Change:
    """Note that the new key is in force, and drop the backups of the `.env`, which hold the old secret."""
    file = located(keys.staged.file)

    def do() -> None:
        keys.staged.finish()
        tidy(keys.environment)

    return Change(
        "Note that the new key is in force",
        [act(f"write it to {file}", "remove the backups of the .env", run=do)],
        undo=[act("note that it is not", run=keys.staged.reopen)],
        replaces=lambda: file,
    )


def turn(keys: AccessKeys, status: str) -> Change:
    """Make the old key Inactive, or Active again."""
    back = "Active" if status == "Inactive" else "Inactive"

    def to(wanted: str) -> None:
        if old := keys.staged.previous:
            keys.turn(old.id, wanted)
            keys.staged.deactivated(wanted == "Inactive")

    return Change(
        f"Make the old key {status.lower()}",
        [act(_call(keys, "update", str(keys.staged.previous), status), run=lambda: to(status))],
        undo=[act(_call(keys, "update", str(keys.staged.previous), back), run=lambda: to(back))],
        replaces=keys.describe,
    )


def delete(keys: AccessKeys) -> Change:
    """Delete the old key, for good."""
    old = keys.staged.previous

    def do() -> None:
        if old:
            keys.delete(old.id)

    return Change(
        "Delete the old key",
        [act(_call(keys, "delete", str(old)), run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=keys.describe,
    )


def forget(keys: AccessKeys) -> Change:
    """Forget the pair that was deleted."""
    return Change(
        "Forget the old key",
        [act(f"remove it from {located(keys.staged.file)}", run=keys.staged.forget)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: str(keys.staged.previous),
    )


def _call(keys: AccessKeys, verb: str, id: str, status: str = "") -> str:
    also = f", Status={status!r}" if status else ""
    return f"iam.{verb}_access_key(UserName={keys.settings.user!r}, AccessKeyId='{id}'{also})"
