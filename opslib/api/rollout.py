"""A rollout: new values in the `.env`, taken by one worker after the other, or all of it taken back."""

import dataclasses
from collections.abc import Collection, Mapping

from opslib.api import pm2, release, replacement
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, Later, act
from opslib.runbook.change import Change, Kept
from opslib.runbook.procedure import located

Value = str | Later | None
"""What a key is set to; None removes it."""


def rollout(
    environment: Deployment,
    title: str,
    values: Mapping[str, Value],
    *,
    replaces: Collection[str] = (),
    settle: float = 5,
) -> Change:
    """Make the change that sets these keys and reloads the workers, the first as the canary.

    The keys are one edit, and each worker is one act, that ends when the new one has stayed up for `settle` seconds.
    Which processes there are is read when it is applied: a change before it in the plan may have replaced them. So the
    plan names what it replaces by what only somebody else can change meanwhile: the ids of the workers, the release in
    force, and the values of `replaces`, which are all the keys unless a change before it sets some of them.

    A worker that does not come up stops it. Undone by putting back the file, byte for byte, and reloading again
    whatever has read the new values, also those that a run which was killed has set.
    """
    file, folder = environment.api.env_file, environment.place
    killed = bool(env_file.edits(file, folder))  # a run was, and nobody knows which of its workers have read which file
    planned = pm2.quiet(environment)
    workers, made = list(planned), list[env_file.Edit]()

    def edit() -> None:
        now = pm2.quiet(environment)
        workers[:] = [dataclasses.replace(worker, pid=0) for worker in now] if killed else now
        found = {key: value.read() if isinstance(value, Later) else value for key, value in values.items()}
        # The latter where a killed run came this far.
        if one := env_file.edit(file, found, folder=folder) or env_file.latest(file, folder):
            made.append(one)

    def restore() -> None:
        for one in made:
            env_file.restore(one)

    def drop() -> None:
        while made:  # last: a backup tells a later run that workers may have read another file
            env_file.drop(made.pop())

    return Change(
        title,
        [
            act(*(_shown(key, value, environment) for key, value in values.items()), run=edit),
            *(replacement.replace(environment, worker, settle=settle) for worker in planned),
        ],
        undo=[
            act(f"put back {located(file)} byte for byte", run=restore),
            *replacement.way_back(environment, workers, reread=True),
            act("remove the backup of the .env", run=drop),
        ],
        replaces=lambda: f"{_in_force(environment, replaces or values)}; {_serving(environment)}",
    )


def tidy(environment: Deployment) -> Act:
    """Make the act that removes the backups of the `.env`, which hold secrets, once no undo needs them any more."""
    file = environment.api.env_file

    def run() -> None:
        for made in env_file.edits(file, environment.place):
            env_file.drop(made)

    return act(f"remove the backups of {located(file)}", run=run)


def closing(environment: Deployment, noted: Act) -> Change:
    """Make the change that ends a rotation: the backups go, then `noted` says in the staging file how far it came.

    In this order: a run after that one finds that it has ended, and clears nothing.
    """
    return Change(
        "Close the rotation",
        [tidy(environment), noted],
        undo=Kept("what was changed is proven and in force: run this procedure again"),
        replaces=lambda: located(environment.staged),
    )


def _shown(key: str, value: Value, environment: Deployment) -> str:
    file = located(environment.api.env_file)
    if value is None:
        return f"remove {key} from {file}"
    if isinstance(value, Later):
        return f"set {key} in {file} to {value.name}"
    return f"set {key} in {file} to {_named(key, value, environment)}"


def _in_force(environment: Deployment, keys: Collection[str]) -> str:
    found = env_file.read(environment.api.env_file)
    return ", ".join(f"{key} {_named(key, found[key], environment) if key in found else 'not set'}" for key in keys)


def _serving(environment: Deployment) -> str:
    ids = [f"worker {worker.id}" for worker in pm2.workers(environment) if isinstance(worker.id, int)]
    return f"{', '.join(ids)}; {release.in_force(environment)}"


def _named(key: str, value: str, environment: Deployment) -> str:
    """Name a value: a secret by its fingerprint, anything else as it is."""
    secret = any(key.startswith(name) for name in environment.secrets)
    return f"fingerprint {env_file.fingerprint(value)}" if secret else repr(value)
