"""Proofs of what an environment's file says for every domain: who approves, the `.env`, its secrets, where we write."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import which
from stat import S_IMODE, filemode

from opslib.deployment import env_file, env_secret
from opslib.deployment.deployment import Deployment
from opslib.deployment.env_file import EnvFileError
from opslib.deployment.proof import Proof, writable
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, Refused
from opslib.runbook.procedure import located

PROGRAMS = ("pm2", "node", "git", "psql", "pg_dump", "pg_restore")

_SIGNER = re.compile(r"""[^\s"]+\s+(?:\S*"[^"]*"\S*\s+|\S+\s+)*?(?:ssh|ecdsa|sk)-\S+\s+[A-Za-z0-9+/]+=*(?:\s.*)?""")
_NAMESPACES = re.compile(r'\bnamespaces="([^"]*)"')


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs; only the disk is asked, and git."""
    yield Proof("approval", "ssh-keygen", partial(_approval, environment))
    if environment.signers:
        yield Proof("signers", "the file of allowed signers", partial(_signers, environment.signers))
    yield Proof("api.env_file", "the disk", partial(_env_file, environment))
    yield Proof("secrets", "the disk", partial(_secrets, environment))
    yield Proof("folder", "git", partial(_folder, environment))
    yield Proof("tools", "the disk", partial(_tools, environment))


def _approval(environment: Deployment) -> Answer:
    asked = sorted(name for name, policy in environment.approval.items() if policy == "second-person")
    if not asked:
        return Answer(True, "a second person is asked for nothing")
    if environment.signers is None:
        file = f"parameters/{environment.name}.yaml"
        return Answer(False, "a second person is asked for, and no `signers` are named", f"Name them in {file}.")
    if which("ssh-keygen") is None:
        return Answer(False, "ssh-keygen is not on PATH, by which signatures are checked", "Install OpenSSH.")
    return Answer(True, f"a second person is asked for {', '.join(asked)}")


def _signers(file: Path) -> Answer:
    form = 'Write one line `LOGIN namespaces="runbook" KEY` for each who may approve.'
    try:
        lines, mode = file.read_text(encoding="utf-8").splitlines(), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        return Answer(False, f"{located(file)} cannot be read ({getattr(error, 'strerror', 'not UTF-8')})", form)
    if S_IMODE(mode) & 0o022:
        return Answer(False, f"others than its owner may write {located(file)} ({filemode(mode)})", "`chmod go-w` it.")
    logins = set[str]()
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            named = _NAMESPACES.search(line)
            if not _SIGNER.fullmatch(line) or (named and "runbook" not in named[1].split(",")):
                return Answer(False, f"line {number} of {located(file)} lets nobody approve", form)
            logins |= {*line.split()[0].split(",")}
    if len(logins) < 2:
        return Answer(False, f"{len(logins)} may sign, and nobody approves what they run themselves", form)
    return Answer(True, f"{', '.join(sorted(logins))} may sign")


def _env_file(environment: Deployment) -> Answer:
    file = environment.api.env_file
    try:
        held = env_file.read(file)
    except EnvFileError as error:
        start = f"The stand-in does not run: `{environment.stand_in}` starts it." if environment.stand_in else ""
        return Answer(False, str(error), start or "Name the .env that the API reads, and be the user that runs it.")
    if not os.access(file, os.W_OK) or writable(file.resolve().parent):
        return Answer(False, "this user may read it, and no run may edit it", "Be the user that runs the API.")
    return Answer(True, f"it has {len(held)} variables, and a run may edit it")


def _secrets(environment: Deployment) -> Answer:
    held, listed = env_file.read(environment.api.env_file), environment.secrets
    lacking = sorted(key for key in listed if not held.get(key) and not key.endswith(env_secret.OPTIONAL))
    # What begins as a listed one is masked too: see Deployment.values.
    loose = [key for key in env_secret.keys(held) if not key.startswith(tuple(listed))]
    found = [f"the .env has no {', '.join(lacking)}"] if lacking else []
    found += [f"{', '.join(sorted(loose))} of the .env looks secret, and is not listed"] if loose else []
    if found:
        put = "Put it there, or take it off the list." if lacking else ""
        mend = [put, "List it, or records may show it." if loose else ""]
        return Answer(False, "; ".join(found), " ".join(filter(None, mend)))
    return Answer(True, "the .env has each of these, and no other that looks secret")


def _folder(environment: Deployment) -> Answer:
    folder, named = environment.place, environment.folder is not None
    try:
        environment.need_ignored()
        if environment.api.env_file.exists():  # else its own line says so
            environment.values()
    except (Refused, BadEnvironment) as error:
        return Answer(False, str(error))
    if problem := writable(folder):
        return Answer(False, problem, "Name a folder of this user's.")
    if not folder.exists():
        return Answer(True, f"{located(folder)} is made by the first run, for its owner only")
    if named and S_IMODE(mode := folder.stat().st_mode) & 0o077:
        return Answer(
            False, f"{located(folder)} is open to others than its owner ({filemode(mode)})", "`chmod 700` it."
        )
    return Answer(True, "git takes nothing of it" if named else "not named: beside the .env, where git takes nothing")


def _tools(environment: Deployment) -> Answer:
    if environment.tools and not environment.tools.is_dir():
        return Answer(False, f"{located(environment.tools)} is no folder", "Correct it, or leave it out.")
    missing = [name for name in PROGRAMS if which(name, path=environment.variables["PATH"]) is None]
    if missing:
        where = f"neither in {located(environment.tools)} nor on PATH" if environment.tools else "not on PATH"
        return Answer(False, f"{', '.join(missing)}: {where}", "Install it, or name its folder as `tools`.")
    return Answer(True, f"{', '.join(PROGRAMS)} are found")
