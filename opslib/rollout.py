"""A rollout: new values in the `.env`, taken by one worker after the other, or all of it taken back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from opslib import env_file, pm2
from opslib.change import Change
from opslib.environment import Environment
from opslib.pm2 import Worker
from opslib.procedure import located

Value = str | Callable[[], str] | None
"""A value; a call that gives it where it is only made by an earlier change of the plan; None to remove the key."""


def rollout(
    environment: Environment,
    workers: Sequence[Worker],
    title: str,
    values: Mapping[str, Value],
    *,
    settle: float = 5,
) -> Change:
    """Make the change that sets these keys (None removes one) and reloads the workers, the first as the canary.

    A worker that does not come up stops it. Undone by putting back the file, byte for byte, and reloading again
    whatever has read the new values, also those that a run which was killed has set. `settle` are the seconds that a
    new worker must stay up.
    """
    file = environment.api.env_file
    edits: list[env_file.Edit] = []
    adopted: list[env_file.Edit] = []

    def do() -> None:
        found = {key: value() if callable(value) else value for key, value in values.items()}
        if made := env_file.edit(file, found):
            edits.append(made)
        elif left := env_file.latest(file):  # a run that was killed had come this far
            edits.append(left)
            adopted.append(left)
        pm2.replace(environment, workers, settle=settle)

    def undo() -> None:
        while edits:
            env_file.restore(edits[-1])
            env_file.drop(edits.pop())
        # Of a killed run's workers nobody knows which file they have read: they are all reloaded.
        pm2.put_back(environment, [replace(w, pid=0) if adopted else w for w in workers], reread=True)

    return Change(
        title,
        shows=[*(_shown(key, value, environment) for key, value in values.items()), *pm2.reloads(environment, workers)],
        do=do,
        replaces=lambda: f"{_in_force(environment, values)}; {pm2.describe(environment, workers)}",
        undo=undo,
        undo_shows=[f"put back {located(file)} byte for byte", *pm2.reloads(environment, workers)],
    )


def tidy(environment: Environment) -> None:
    """Remove the backups of the `.env`, which hold secrets, once no undo needs them any more."""
    for made in env_file.edits(environment.api.env_file):
        env_file.drop(made)


def _shown(key: str, value: Value, environment: Environment) -> str:
    file = located(environment.api.env_file)
    if value is None:
        return f"remove {key} from {file}"
    if callable(value):
        return f"set {key} in {file} to the new value"
    return f"set {key} in {file} to {_named(key, value, environment)}"


def _in_force(environment: Environment, values: Mapping[str, Value]) -> str:
    found = env_file.read(environment.api.env_file)
    return ", ".join(f"{key} {_named(key, found[key], environment) if key in found else 'not set'}" for key in values)


def _named(key: str, value: str, environment: Environment) -> str:
    """Name a value: a secret by its fingerprint, anything else as it is."""
    secret = any(key.startswith(name) for name in environment.secrets)
    return f"fingerprint {env_file.fingerprint(value)}" if secret else repr(value)
