"""The release in force: a folder behind a link, or a checkout in place; and what its code shows of itself."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opslib.api import pm2
from opslib.deployment import env_file, env_secret
from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.answer import Answer
from opslib.runbook.errors import CommandFailed

CODE = (".js", ".cjs", ".mjs", ".ts")
OTHERS = ("node_modules", ".git", "test", "tests", "__tests__", "coverage")
"""Folders that hold no code of the API's own, or none that runs in it."""
BROWSER = ("client", "frontend", "public", "static")
"""Such folders at the top of a release."""
TRIED = (".test", ".spec", ".d")
"""What the name of a file ends in, before its suffix, that only tests or types the code."""
COMMENT = ("//", "/*", "*")
"""What a line begins with that is only a comment."""

_HANDLER = re.compile(r"""process\s*\.\s*(?:on|once|addListener)\(\s*["'`]SIGINT["'`]""")


@dataclass(frozen=True)
class Missing:
    """A secret that has no value, and a file that names it."""

    secret: str
    named_in: Path


@dataclass(frozen=True)
class Line:
    """A line of the code."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"

    def within(self, release: Path) -> str:
        """Say where it is, from the release on."""
        return f"{self.file.relative_to(release.resolve())}:{self.line}"


def in_force(environment: Deployment) -> str:
    """Say which code a new worker would run: the release behind the link, or the commit of the checkout."""
    folder = environment.api.release
    if folder.is_symlink():
        return f"release in force {folder.resolve().name}"
    git = ["git", "-C", str(folder)]
    try:
        commit = program.run([*git, "rev-parse", "HEAD"], env=environment.variables).strip()
        changed = program.run([*git, "status", "--porcelain", "--untracked-files=no"], env=environment.variables)
    except CommandFailed:
        return f"the code in {folder.name}, of no known commit"
    return f"commit {commit[:12]}" + (", with changes that are not committed" if changed else "")


def handles_signals(environment: Deployment) -> bool:
    """Whether some code of the API's handles SIGINT, by which PM2 ends a worker; without it nothing in flight ends."""
    return any(_HANDLER.search(file.read_text("utf-8", "replace")) for file in code(environment.api.release))


def finds_its_secrets(environment: Deployment) -> Answer:
    """Whether each secret that the code in force names has a value in the `.env`, or else in what PM2 holds.

    Only secrets are asked about: of other keys nobody can tell from outside whether the code can do without.
    """
    values = {**pm2.variables(environment), **env_file.read(environment.api.env_file)}
    absent = [key for key in environment.secrets if not key.endswith(env_secret.OPTIONAL) and not values.get(key)]
    files = list(code(environment.api.release))
    missing = {key: Missing(key, file) for file in files for key in _named(file, absent)}
    if not files:
        return Answer(None, [], f"No code lies below {environment.api.release}.")
    put = f"Put {', '.join(sorted(missing))} into the .env: a worker without it does not come up, or fails."
    return Answer(not missing, [missing[key] for key in sorted(missing)], put)


def naming(environment: Deployment, key: str) -> list[Line]:
    """Give the lines of the API's own code that name this variable, those that are only a comment left out."""
    return list(dict.fromkeys(line for line, _ in search(environment.api.release, rf"\b{re.escape(key)}\b")))


def search(release: Path, pattern: str) -> Iterator[tuple[Line, re.Match[str]]]:
    """Give what a regular expression finds in a line of the API's own code, those that are only a comment left out."""
    for file in code(release):
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
            if not line.lstrip().startswith(COMMENT):
                yield from ((Line(file, number), found) for found in re.finditer(pattern, line))


def code(release: Path) -> Iterator[Path]:
    """Give the files of the API's own code."""
    top = release.resolve()
    for folder, inside, files in os.walk(top):
        others = (*OTHERS, *BROWSER) if Path(folder) == top else OTHERS
        inside[:] = sorted(name for name in inside if name not in others)
        found = (Path(folder, name) for name in sorted(files) if name.endswith(CODE))
        yield from (file for file in found if not file.stem.endswith(TRIED) and file.is_file())


def _named(file: Path, keys: list[str]) -> set[str]:
    return {*keys} & {*re.findall(r"\w+", file.read_text("utf-8", "replace"))} if keys else set()
