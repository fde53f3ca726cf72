"""A proof: a line of an environment's file, and the question that shows whether the world is as the line says.

All are asked side by side, as they wait for others most of the time. What is not answered in time is not waited for.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from stat import S_IMODE, filemode
from typing import TypeVar

from opslib.deployment import env_file, secret_reference
from opslib.deployment.deployment import Deployment
from opslib.deployment.env_file import EnvFileError
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter, Refused, RunbookError
from opslib.runbook.procedure import located, root

T = TypeVar("T")

LONGEST = 12.0
"""Seconds in which all lines are to be proven."""
PROGRAMS = ("pm2", "node", "git", "psql", "pg_dump", "pg_restore")
OPTIONAL = "_PREVIOUS"
"""What the name of a secret ends in that is there only while it is being replaced."""
SHORTEST = 8
"""A value of fewer characters, or a number, is taken for a setting, whatever it is called."""

_CALLED_SECRET = re.compile(
    r"(?i)secret|passw(?:or)?d|passphrase|(?:^|_)pwd|token|private|credential|(?:^|_|api|access)key$|(?:^|_)dsn$"
)
_CALLED_PUBLIC = re.compile(r"(?i)publi(?:c|shable)|^(?:vite|react_app)_|_(?:id|name|path|file|expir\w*|ttl|life\w*)$")
_LIKE_SECRET = re.compile(
    r"://[^\s/@:]*:[^\s/@]+@|PRIVATE KEY-----|^(?:(?:sk|rk)_(?:live|test)|whsec)_|^SG\.[\w-]+\.", re.IGNORECASE
)
_SIGNER = re.compile(r"""[^\s"]+\s+(?:\S*"[^"]*"\S*\s+|\S+\s+)*?(?:ssh|ecdsa|sk)-\S+\s+[A-Za-z0-9+/]+=*(?:\s.*)?""")
_NAMESPACES = re.compile(r'\bnamespaces="([^"]*)"')


@dataclass(frozen=True)
class Proof:
    """A line and its question, whose evidence is a sentence that says what was found. What it raises is no answer."""

    key: str
    """Where the line stands, as `stripe.payments.unit`."""
    asks: str
    """Who is asked, to be named if no answer comes."""
    ask: Callable[[], Answer]


def answers(proofs: Sequence[Proof], *, within: float = LONGEST) -> Iterator[tuple[str, Answer]]:
    """Ask all side by side, for so many seconds; give each line with its answer, in their order. Never raises."""
    ends, asked = time.monotonic() + within, [(proof, Future[Answer]()) for proof in proofs]
    for proof, answer in asked:
        # A thread that hangs must not keep the process from ending, as those of a pool do.
        threading.Thread(target=_ask, args=(proof, answer), daemon=True).start()
    said = dict[str, str]()
    for proof, answer in asked:
        try:
            found = answer.result(timeout=max(0, ends - time.monotonic()))
        except TimeoutError:
            late = f"{proof.asks} has not answered within {within:g} s"
            yield proof.key, Answer(None, late, "See whether it is well, and whether the file names the right place.")
            continue
        first = proof.key if found else said.setdefault(str(found.evidence), proof.key)
        yield proof.key, found if first == proof.key else Answer(found.ok, f"see {first}")


def once(find: Callable[[], T]) -> Callable[[], T]:
    """Have a value found once for all proofs that rest on it; where that raises, it does so for each of them."""
    found, first = Future[T](), threading.Lock()

    def give() -> T:
        if first.acquire(blocking=False):
            try:
                found.set_result(find())
            except BaseException as error:
                found.set_exception(error)
        return found.result()

    return give


def reference(text: str, name: str, *, until: str = "") -> Answer:
    """Whether a reference leads to a value. `until` says what it may be missing until."""
    kind, _, where = text.partition(":")
    absent = kind == "env" and where not in os.environ
    absent |= kind == "file" and not (root() / Path(where).expanduser()).exists()
    if kind == "ask":
        return Answer(True if until else None, "a person is asked for it", "Another reference can be proven.")
    if absent and until:
        return Answer(True, f"nothing is there yet, nor need it be until {until}")
    try:
        secret_reference.resolve(text, name)
    except BadParameter as error:
        return Answer(False, str(error))
    return Answer(True, "there is a value")


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs of what an environment's file says for every domain."""
    yield Proof("approval", "ssh-keygen", partial(_approval, environment))
    if environment.signers:
        yield Proof("signers", "the file of allowed signers", partial(_signers, environment.signers))
    yield Proof("api.env_file", "the disk", partial(_env_file, environment))
    yield Proof("secrets", "the disk", partial(_secrets, environment))
    yield Proof("folder", "git", partial(_folder, environment))
    yield Proof("tools", "the disk", partial(_tools, environment))


def looks_secret(key: str, value: str) -> bool:
    """Whether a variable of an `.env` is called as secrets are, or has a value as they have."""
    if len(value) < SHORTEST or value.isdigit():
        return False
    called = _CALLED_SECRET.search(key) and not _CALLED_PUBLIC.search(key) and "://" not in value
    return bool(called or _LIKE_SECRET.search(value))


def writable(folder: Path) -> str:
    """Say why this user can write no file into a folder, or make the folder first; empty if they can."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{located(there)} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"this user may not write into {located(there)}"


def _ask(proof: Proof, answer: Future[Answer]) -> None:
    try:
        answer.set_result(proof.ask())
    except RunbookError as error:
        answer.set_result(Answer(None, str(error)))
    except Exception as error:  # of a library, whose words may hold anything
        answer.set_result(Answer(None, f"{proof.asks} could not be asked ({type(error).__name__})"))


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
    lacking = sorted(key for key in listed if not held.get(key) and not key.endswith(OPTIONAL))
    # What begins as a listed one is masked too: see Deployment.values.
    loose = [key for key, value in held.items() if looks_secret(key, value) and not key.startswith(tuple(listed))]
    found = [f"the .env has no {', '.join(lacking)}"] if lacking else []
    found += [f"{', '.join(sorted(loose))} of the .env looks secret, and is not listed"] if loose else []
    if found:
        put = "Put it there, or take it off the list." if lacking else ""
        mend = [put, "List it, or records may show it." if loose else ""]
        return Answer(False, "; ".join(found), " ".join(filter(None, mend)))
    return Answer(True, f"the .env has all of these {len(listed)}, and no other that looks secret")


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
        where = f"{located(environment.tools)} nor on PATH" if environment.tools else "on PATH"
        return Answer(False, f"{', '.join(missing)} is not in {where}", "Install it, or name its folder as `tools`.")
    return Answer(True, f"{', '.join(PROGRAMS)} are found")
