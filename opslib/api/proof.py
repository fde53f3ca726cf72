"""Proofs of what an environment's file says of the API: PM2, its health, the release in force, tokens and logs."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil

from opslib.api import health, jwt, jwt_rotation, log, pm2, poll, release
from opslib.api.pm2 import Worker
from opslib.api.settings import Log, Tokens
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment, Trial
from opslib.deployment.proof import Proof, once
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

Workers = Callable[[], list[Worker]]


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs; PM2 is asked once for all of them."""
    workers = once(lambda: pm2.workers(environment))
    url, known = environment.api.url, environment.find(Log) or Log()
    yield Proof("api.url", url, partial(_url, environment, workers))
    yield Proof("api.health", url, partial(_health, environment))
    yield Proof("api.pm2_home", "PM2", partial(_pm2_home, environment, workers))
    yield Proof("api.name", "PM2", partial(_name, environment, workers))
    yield Proof("api.release", "PM2", partial(_release, environment, workers))
    if environment.api.trial:
        yield Proof("api.trial", "the disk", partial(_trial, environment, environment.api.trial))
    if tokens := environment.find(Tokens):
        yield Proof("tokens.route", url, partial(_route, environment, tokens))
        yield Proof("tokens.claims", url, partial(_claims, environment, tokens))
    yield Proof("log.lines", "PM2", partial(_lines, known, workers))
    if known.files:
        yield Proof("log.files", "the disk", partial(_files, known.files))


def _pm2_home(environment: Deployment, workers: Workers) -> Answer:
    found, name = pm2.daemon(environment), environment.api.name
    home = located(environment.api.pm2_home)
    if not found["runs"]:
        other = f"process {found['pid']} of {found['user']} is" if found["pid"] else "nobody is"
        return Answer(False, f"{other} PM2's daemon for {home}", pm2.ours(environment).otherwise)
    return Answer(True, f"PM2's daemon runs, with {_counted(workers())} of {name}")


def _name(environment: Deployment, workers: Workers) -> Answer:
    if not (found := workers()):
        return Answer(False, f"PM2 lists no {environment.api.name}", "Take the name that `pm2 list` shows.")
    states, mode = ", ".join(sorted({worker.status for worker in found})), found[0].mode
    return Answer(True, f"PM2 lists {_counted(found)} of this name, in {mode} mode: {states}")


def _url(environment: Deployment, workers: Workers) -> Answer:
    if (got := health.ask(environment.api.health_url)).status == 0:
        if got.late:
            return Answer(None, "nobody has answered in time", "See whether the API is well: open restart_api.")
        return Answer(False, "nobody answers there", "Name where the API listens; if it is down, open restart_api.")
    if not (pids := [worker.pid for worker in workers() if worker.pid]):
        raise RunbookError(f"somebody answers, and PM2 lists no process of {environment.api.name} that it could be")
    got = health.ask(environment.api.health_url, pids)
    if got.pid in pids:
        return Answer(True, f"process {got.pid} answers, one of PM2's")
    where = "Name the address at which PM2's processes themselves listen, not that of a proxy."
    if got.pid:
        return Answer(False, f"process {got.pid} answers, none of {environment.api.name}'s", where)
    return Answer(None, f"somebody answers, and the system does not tell whether it is {environment.api.name}", where)


def _health(environment: Deployment) -> Answer:
    got, path = health.ask(environment.api.health_url), environment.api.health
    if got.status == 0:
        raise RunbookError(f"nobody answered at {environment.api.url}")
    if got.well:
        return Answer(True, f"GET {path} is answered 200")
    mend = "Open restart_api." if got.status >= 500 else "Name a path that answers 200 while the API is well."
    return Answer(False, f"GET {path} is answered {got.status}", mend)


def _release(environment: Deployment, workers: Workers) -> Answer:
    folder, name = environment.api.release, located(environment.api.release)
    what = "Name the link at the release in force, or the checkout itself."
    if not folder.is_dir():
        return Answer(False, f"{name} leads to no folder" if folder.is_symlink() else f"{name} is no folder", what)
    if not folder.is_symlink() and not (folder / ".git").exists():
        return Answer(False, f"{name} is neither a link nor a checkout", what)
    if not (running := [worker for worker in workers() if worker.pid]):
        raise RunbookError(f"no process of {environment.api.name} runs, whose folder would tell")
    if others := [worker for worker in running if worker.release != folder.resolve()]:
        there = ", ".join(sorted({str(one.release or _folder(one.pid)) for one in others}))
        same = all(one.release for one in others)
        mend = "The link has moved since: open restart_api." if same else what
        return Answer(False, f"{_counted(others)} of PM2's runs in {there}, not in {folder.resolve()}", mend)
    return Answer(True, f"{release.in_force(environment)}, in which PM2 runs {_counted(running)}")


def _trial(environment: Deployment, trial: Trial) -> Answer:
    names = (trial.port, *trial.variables)
    if unread := [name for name in names if not release.naming(environment, name)]:
        return Answer(False, f"no code names {', '.join(unread)}", "Name the variables that the API's code reads.")
    return Answer(True, f"the code names {', '.join(names)}")


def _route(environment: Deployment, tokens: Tokens) -> Answer:
    status = _told(environment, tokens)
    if status == 401:
        return Answer(True, f"GET {tokens.route} is answered 401 where there is no token")
    mend = "Name a route that only reads and asks for an access token."
    return Answer(False, f"GET {tokens.route} without a token is answered {status}, not 401", mend)


def _claims(environment: Deployment, tokens: Tokens) -> Answer:
    key = jwt_rotation.KEY
    if not release.naming(environment, key):
        return Answer(True, f"not tried: no code names {key}, so the API takes no token that it signs")
    if not (secret := env_file.read(environment.api.env_file).get(key, "")):
        raise RunbookError(f"the .env has no {key} to sign with")
    status = _told(environment, tokens, Authorization=f"Bearer {jwt.sign(environment, secret)}")
    said = f"a token with these claims, signed with {key}, is answered {status}"
    if status not in (200, 401, 403):
        raise RunbookError(said)
    return Answer(status == 200, said, f"Compare them, `algorithm` and {key} with what the API's code expects.")


def _told(environment: Deployment, tokens: Tokens, **headers: str) -> int:
    """Ask the route once; give the status. Raise RunbookError where that tells nothing."""
    got = health.ask(f"{environment.api.url}{tokens.route}?{jwt.MARK}", headers=headers)
    if got.status in (0, poll.TOO_OFTEN) or got.status >= 500:
        raise RunbookError(f"GET {tokens.route} was answered {got.status}" if got.status else "nobody answered")
    return got.status


def _lines(known: Log, workers: Workers) -> Answer:
    reading = log.read(log.beginnings((position for worker in workers() for position in worker.logs), known), known)
    said = f"{reading.recognised} of the newest {len(reading.events)} entries of the logs are understood"
    return Answer(reading.legible.ok, said, reading.legible.otherwise)


def _files(files: Sequence[Path]) -> Answer:
    unread = [located(file) for file in files if not (file.is_file() and os.access(file, os.R_OK))]
    if unread:
        return Answer(False, f"{', '.join(unread)} is not there, or not for this user to read", "Correct the path.")
    return Answer(True, f"{len(files)} there, and this user may read them")


def _folder(pid: int) -> str:
    try:
        return psutil.Process(pid).cwd()
    except psutil.Error:
        return "a folder that the system does not tell"


def _counted(workers: Sequence[Worker]) -> str:
    return f"{len(workers)} worker" + ("" if len(workers) == 1 else "s")
