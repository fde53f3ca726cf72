"""The place of our own files: the lock, staged secrets, backups of the `.env`. Git must not take them into a commit."""

import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from opslib.runbook import program
from opslib.runbook.errors import CommandFailed, Refused, TimedOut

NO_WORK_TREE = ("not a git repository", "must be run in a work tree")
"""What git says, with exit code 128, where there is nothing that a file could get into."""


def need_ignored(place: Path, names: Sequence[str], *, variables: Mapping[str, str], otherwise: str) -> None:
    """Raise Refused if files of these names would lie in a git work tree that does not ignore them."""
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    # Asked about files: a pattern that ends in a slash takes a folder only once it is there.
    files = [os.path.relpath(place / name, there) for name in names]
    given, env = "\0".join(files).encode(errors="surrogateescape"), {**variables, "LC_ALL": "C"}
    try:
        said = program.run(["git", "check-ignore", "--stdin", "-z"], env=env, cwd=there, given=given)
    except TimedOut as error:
        raise Refused(f"whether git ignores {place} cannot be told: {error}") from None
    except CommandFailed as error:
        if error.exit_code is None or any(words in error.output for words in NO_WORK_TREE):
            return  # there is no git, or no work tree
        if error.exit_code != 1:
            raise Refused(f"whether git ignores {place} cannot be told: {error}", error.evidence) from None
        said = ""
    if taken := [name for name, file in zip(names, files, strict=True) if file not in said.split("\0")]:
        raise Refused(
            f"{place} lies in a git checkout that does not ignore what runs keep there ({', '.join(taken)}): "
            f"the next `git add -A` commits it, `git clean` deletes it. {otherwise}"
        )


def make(place: Path) -> None:
    """Make the folder, for its owner only. Raise Refused if it cannot be made, or others may look into it."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = place.stat().st_mode
    except OSError as error:
        raise Refused(f"{place} cannot be made for the files of runs: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise Refused(
            f"{place} is open to others than its owner ({stat.filemode(mode)}), and secrets are staged there: "
            f"`chmod 700 {shlex.quote(str(place))}`, or name another `folder`."
        )
