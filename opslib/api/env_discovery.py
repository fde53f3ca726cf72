"""What the release and its `.env` tell an environment's file: where they are, and which keys are secret."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from opslib.api import javascript, release
from opslib.api.pm2_app import App
from opslib.deployment import env_secret
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.runbook.errors import Refused
from opslib.runbook.procedure import located

DOTENV = ".env"

_TEXT = r"""["'`]([^"'`$]+)["'`]"""
_BESIDE = re.compile(rf"(?:path\.)?(?:join|resolve)\(\s*(?:__dirname|import\.meta\.dirname)\s*,\s*{_TEXT}\s*\)")
_FROM = re.compile(rf"(?:fileURLToPath\(\s*)?new\s+URL\(\s*{_TEXT}\s*,\s*import\.meta\.url\s*\)(?:\.pathname|\s*\))?")
_LOADS = re.compile(r"""(?:dotenv["'`]?\)?)\.config|(?<![\w.$])config""")
_AT_ONCE = re.compile(r"""["'`]dotenv/config["'`]""")
_OPTION = re.compile(r"--env-file(?:-if-exists)?=(.+)")


def found_release(app: App) -> Line | Asked:
    """Find the link in the path that PM2 runs the app through, or else the top of its git checkout."""
    for folder in (app.folder, *app.folder.parents):
        if folder.is_symlink() and any((folder / name).exists() for name in (".git", "package.json")):
            return Line("api.release", located(folder), f"the link through which PM2 runs {app.name}")
        if (folder / ".git").exists():
            return Line("api.release", located(folder), f"the git checkout in which PM2 runs {app.name}")
    what = f"the folder of the code that PM2 runs in {app.folder}: no link leads to it, and it is no git checkout"
    return Asked("api.release", what, str(app.folder))


def found_env_file(app: App, top: Path, code: Path) -> Line | Asked:
    """Find the `.env` that dotenv reads: the one that the code names, or else the one in the folder PM2 runs it in."""
    folders = [folder for folder in (app.folder, *app.folder.parents) if folder.is_relative_to(top)]
    beside = [folder / DOTENV for folder in folders if (folder / DOTENV).is_file()]
    read = _read_by_code(app, top, code)
    there = list(dict.fromkeys(file for file in read if file and file.is_file()))
    if len(there) == 1 and None not in read:
        here = there[0] == app.folder / DOTENV
        said = "dotenv reads it where PM2 runs the API" if here else "the code has dotenv read it"
        return Line("api.env_file", located(there[0]), said)
    if not read and beside[:1] == [app.folder / DOTENV]:
        return Line("api.env_file", located(beside[0]), "it lies where PM2 runs the API")
    seen = list(dict.fromkeys((*there, *beside)))
    named = ", ".join(located(file) for file in seen) or f"none lies in {located(app.folder)} or above it"
    what = f"the .env that the API reads: the code does not show which ({named})"
    return Asked("api.env_file", what, located(seen[0] if seen else app.folder / DOTENV))


def _read_by_code(app: App, top: Path, code: Path) -> list[Path | None]:
    """Give the files that the code has dotenv or Node read; None for each that is not shown."""
    options = (_OPTION.fullmatch(str(one)) for one in app.first.get("node_args") or [])
    found: list[Path | None] = [_path(app.folder, one[1]) for one in options if one]
    for file in release.code(code):
        text = javascript.read(file) if not file.stem.endswith(".config") else ""
        if "dotenv" not in text:
            continue
        found += [app.folder / DOTENV for _ in _AT_ONCE.finditer(text)]
        found += [None] if "dotenv-flow" in text else []  # which reads several
        real = top / file.relative_to(top.resolve())
        for at in javascript.calls(text, _LOADS.pattern):
            options_given = [*javascript.given(text, at), "{}"][0]
            said = javascript.fields(options_given) if options_given.startswith("{") else {"path": ""}
            found.append(_named(said["path"], real, app.folder) if "path" in said else app.folder / DOTENV)
    return found


def _named(written: str, file: Path, folder: Path) -> Path | None:
    """Give the path that an expression of this file names, if it is written out."""
    if found := _BESIDE.fullmatch(written) or _FROM.fullmatch(written):
        return _path(file.parent, found[1])
    text = javascript.literal(written)
    return _path(folder, text) if isinstance(text, str) and text else None


def _path(folder: Path, text: str) -> Path:
    return Path(os.path.normpath(folder / text))


def found_secrets(values: Mapping[str, str]) -> Line | Asked:
    """Find the keys of the `.env` whose values are secret."""
    if keys := env_secret.keys(values):
        return Line("secrets", keys, "the keys of the .env that are called a secret, or whose value looks like one")
    why = "none looks like it" if values else "there is no .env to look into"
    return Asked("secrets", f"the keys of the .env whose values are secret: {why}", "[JWT_SECRET]")


def found_folder(environment: Deployment) -> Iterator[Line]:
    """Find whether our own files need a folder of their own, because git would take them beside the `.env`."""
    try:
        environment.need_ignored()
    except Refused:
        where = f"beside the .env, in {located(environment.place)}, git would take our own files into a commit"
        yield Line("folder", f"~/.runbook/{environment.name}", where)


def found_prisma(top: Path) -> Iterator[Line | Asked]:
    """Find the folder of the release that has prisma/schema.prisma, in which Prisma's commands run."""
    found = []
    for folder, inside, files in os.walk(top.resolve()):
        inside[:] = [name for name in inside if name not in release.OTHERS]
        if "schema.prisma" in files and Path(folder).name == "prisma":
            found.append(os.path.relpath(Path(folder).parent, top.resolve()))
    if len(found) == 1:
        yield Line("recovery.prisma", found[0], f"{Path(found[0], 'prisma/schema.prisma')} lies in the release")
    else:
        there = f"lies in {', '.join(sorted(found))}" if found else "lies nowhere in the release"
        what = "the folder of a release that `npx prisma migrate` runs in: prisma/schema.prisma"
        yield Asked("recovery.prisma", f"{what} {there}", "server")
