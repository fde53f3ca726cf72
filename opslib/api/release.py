"""The release in force: which secrets its code asks the `.env` for."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opslib.api import pm2
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

CODE = (".js", ".cjs", ".mjs", ".ts")
OTHERS = ("node_modules", ".git")
"""Folders that hold no code of the API's own."""
OPTIONAL = "_PREVIOUS"
"""What the name of a secret ends in that is there only while it is being replaced."""


@dataclass(frozen=True)
class Missing:
    """A secret that has no value, and a file that names it."""

    secret: str
    named_in: Path


def finds_its_secrets(environment: Deployment) -> Answer:
    """Whether each secret that the code in force names has a value in the `.env`, or else in what PM2 holds.

    Only secrets are asked about: of other keys nobody can tell from outside whether the code can do without.
    """
    values = {**pm2.variables(environment), **env_file.read(environment.api.env_file)}
    absent = [key for key in environment.secrets if not key.endswith(OPTIONAL) and not values.get(key)]
    code = list(_code(environment.api.release))
    missing = {key: Missing(key, file) for file in code for key in _named(file, absent)}
    if not code:
        return Answer(None, [], f"No code lies below {environment.api.release}.")
    put = f"Put {', '.join(sorted(missing))} into the .env: a worker without it does not come up, or fails."
    return Answer(not missing, [missing[key] for key in sorted(missing)], put)


def _named(file: Path, keys: list[str]) -> set[str]:
    return {*keys} & {*re.findall(r"\w+", file.read_text("utf-8", "replace"))} if keys else set()


def _code(release: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(release.resolve()):
        inside[:] = [name for name in inside if name not in OTHERS]
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(CODE))
