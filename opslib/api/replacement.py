"""Replacement: new processes in place of the API's workers, at the least cost that PM2 allows for, and the way back.

In cluster mode workers are replaced one by one by `pm2 reload`. In fork mode there is nobody else to answer meanwhile:
then a worker is restarted, or hands over to the next one where the environment's file allows that.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

from opslib.api import handover, health, log, pm2, release
from opslib.api.pm2 import BROKEN, Worker
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import RunbookError, UndoFailed

SILENT = 30
"""Seconds after which a worker that is up and does not answer is taken to hang."""
UNDO_SECONDS = 60
SPARE_SECONDS = 120
"""Seconds for which a worker is left where it is because the others do not all answer: a busy machine needs them."""


def graceful(environment: Deployment) -> Answer:
    """Whether the workers can be replaced one by one without a request being cut; says which condition fails.

    That of the code is only looked for: a handler of PM2's signal, without which what is in flight is cut.
    """
    found = pm2.workers(environment)
    alone = [
        *(f"process {w.pid} waits since a handover that was killed" for w in handover.waiting(environment)),
        *(["there are fewer than two workers"] if len(found) < 2 else []),
        *(f"worker {w.id} runs in {w.mode} mode, not in cluster mode" for w in found if w.mode != "cluster"),
    ]
    cut = [f"PM2 does not wait until worker {w.id} is ready (no `wait_ready`)" for w in found if not w.ready]
    cut += [] if release.handles_signals(environment) else ["no code handles SIGINT, with which PM2 ends a worker"]
    if alone and handover.allowed(environment):
        said = f"What is in flight when the old process ends is cut, as in fork mode ({'; '.join(alone)})"
    elif alone:
        said = f"REQUESTS WILL FAIL from each worker's end until the next one listens: {'; '.join(alone)}"
        if all(worker.mode == "fork" for worker in found):
            said += ". In fork mode `handover: true` in the environment's file spares most"
    else:
        said = f"Requests in flight may be cut at each reload: {'; '.join(cut)}"
    return Answer(not alone and not cut, found, f"{said}. To go on all the same: -p accept_downtime True")


def serving(environment: Deployment) -> list[Worker]:
    """Give the workers once no reload is under way, without what a handover that was killed has left."""
    waits = {worker.id for worker in handover.waiting(environment)}
    return [worker for worker in pm2.quiet(environment) if worker.id not in waits]


def replace(environment: Deployment, worker: Worker, *, settle: float | None = None) -> Act:
    """Make the act that replaces this worker: by `pm2 reload`, or in fork mode by a handover or `pm2 restart`.

    It leaves only when all the others answer. With `settle` the act ends when the new one has stayed up for so many
    seconds, and fails when it does not.
    """
    hands_over = worker.mode == "fork" and handover.allowed(environment)
    words = _words(worker)

    def run() -> None:
        now = _now(environment, worker)
        _spare(environment, worker)
        if hands_over:
            handover.carry_out(environment, now)
        else:
            pm2.carry_out(environment, now, words)
        if settle is not None:
            settled(environment, now, settle=settle, within=settle + UNDO_SECONDS)

    return act(*(handover.shown(environment) if hands_over else [pm2.typed(environment, words)]), run=run)


def command(environment: Deployment, verb: str, before: Sequence[Worker]) -> Act:
    """Make an act of one command of PM2's for all of these workers at once, whoever misses them."""
    words = ["pm2", verb, *(str(worker.id) for worker in before)]
    return act(pm2.typed(environment, words), run=lambda: pm2.carry_out(environment, before, words))


def change(environment: Deployment, before: Sequence[Worker], title: str, acts: Sequence[Act]) -> Change:
    """Make the change whose acts replace these workers, with its way back."""
    return Change(title, acts, undo=way_back(environment, before), replaces=lambda: describe(environment, before))


def commands(environment: Deployment, before: Sequence[Worker]) -> list[str]:
    """Give the commands that put these workers back, as a person would type them."""
    return [pm2.typed(environment, _words(worker)) for worker in before]


def way_back(environment: Deployment, before: Sequence[Worker], *, reread: bool = False) -> list[Act]:
    """Make the acts that `put_back` these workers, which are read when they are undone."""
    link = environment.api.release
    code = f"point {link.name} at the release that the workers ran, if it points elsewhere"
    order = "each only if it was replaced and does not answer" + (", or has read what is put back" if reread else "")
    if not link.is_symlink():
        order += f"; the code in {link.name} stays as it is: no release lies beside it"
    return [
        *([act(code, run=lambda: _point_back(environment, before))] if link.is_symlink() else []),
        act(*commands(environment, before), order, run=lambda: put_back(environment, before, reread=reread)),
    ]


def done(environment: Deployment, before: Sequence[Worker], *, settle: float) -> Answer:
    """Whether each of these workers is a new process that answers and has stayed up for `settle` seconds.

    It cannot be told where nobody knows which process answers. Raise RunbookError as soon as one cannot come up any
    more, with the end of its logs as evidence.
    """
    pairs = _successors(environment, before)
    for old, new in pairs:
        again = new.restarts - old.restarts
        if new.status in BROKEN or (again > 1 and new.pid != old.pid and new.up < settle):
            said = log.causes(old.logs)
            why = "its log says why" if log.errors(said) else "its log names no error, and ends so"
            raise RunbookError(f"worker {new.id} does not stay up: {new.status}, {again} restarts; {why}.", said)
    after = [new for _, new in pairs]
    fresh = len(after) == len(before) and all(
        new.pid != old.pid and new.status == "online" and new.restarts <= old.restarts + 1 and new.up >= settle
        for old, new in pairs
    )
    if not fresh:
        return Answer(False, after)
    answering = health.answering(environment.api.health_url, {worker.pid for worker in after})
    for old, new in pairs:
        if answering.silent(new.pid) and new.up >= max(SILENT, settle):
            raise RunbookError(
                f"worker {new.id} is online and has not answered for {new.up} s; its log says what it does.",
                log.since(old.logs, limit=6),
            )
    if all(new.pid in answering.pids for new in after):
        return Answer(True, after)
    return Answer(None if answering.untold else False, after, health.ANONYMOUS if answering.untold else "")


def settled(environment: Deployment, before: Sequence[Worker], *, settle: float, within: float) -> None:
    """Wait until each of these workers is new and serves, or that cannot be told of processes that stay up.

    Raise RunbookError when one cannot come up, or time (seconds) is up.
    """
    ends = time.monotonic() + within
    while done(environment, before, settle=settle).ok is False:
        if time.monotonic() > ends:
            ids = ", ".join(str(worker.id) for worker in before)
            raise RunbookError(f"after {within:g} s not every one of the new workers {ids} is online and answers")
        time.sleep(0.5)


def describe(environment: Deployment, before: Sequence[Worker]) -> str:
    """Say which processes these workers are now, and which release is in force: what a replacement replaces."""
    now = {worker.id: worker for worker in pm2.workers(environment)}
    named = [f"worker {w.id} (process {now[w.id].pid if w.id in now else 'gone'})" for w in before]
    return f"{', '.join(named)}; {release.in_force(environment)}"


def put_back(environment: Deployment, before: Sequence[Worker], *, reread: bool = False) -> None:
    """Undo a replacement: the old release in force, and these workers up on it, or UndoFailed with what is down.

    `reread` replaces also the new ones that serve, because the `.env` that they have read was put back. One that was
    never replaced is left alone, whether it answers or not, and so is one of which nobody can tell that it does not;
    those that do not answer come first, one at a time.
    """
    ran = _point_back(environment, before)
    # One that PM2 is starting again by itself may come up now; a command in the middle of that would be refused.
    pm2.quiet(environment, within=UNDO_SECONDS)
    old = {worker.pid for worker in before}
    pairs = _successors(environment, before)
    if len(pairs) < len(before):
        raise UndoFailed(
            f"{_state(environment)} PM2 lists {len(pairs)} of {len(before)} workers: start those it lacks."
        )
    new = [one for _, one in pairs if not one.pid or one.pid not in old]
    up = health.answering(environment.api.health_url, {worker.pid for worker in new})
    down = [one for one in new if up.silent(one.pid) or one.status in BROKEN or (ran and one.release != ran) or reread]
    try:
        for worker in sorted(down, key=lambda worker: worker.pid in up.pids):
            _spare(environment, worker)
            # PM2 does not reload what it is still launching.
            serves = worker.pid in up.pids and worker.mode == "cluster"
            pm2.run(environment, ["pm2", "reload" if serves else "restart", str(worker.id)])
            settled(environment, [_begun(environment, worker)], settle=2, within=UNDO_SECONDS)
    except RunbookError as error:
        raise UndoFailed(f"{_state(environment)} {error}", error.evidence) from None


def _words(worker: Worker) -> list[str]:
    return ["pm2", "reload" if worker.mode == "cluster" else "restart", str(worker.id)]


def _now(environment: Deployment, worker: Worker) -> list[Worker]:
    """Give this worker as it is now; in fork mode whichever there is, as a handover gives it another id."""
    found = pm2.quiet(environment)
    return [one for one in found if one.id == worker.id] or [one for one in found if len(found) == 1]


def _successors(environment: Deployment, before: Sequence[Worker]) -> list[tuple[Worker, Worker]]:
    """Give each of these workers with the one in its place now: of the same id, or after a handover of a new one."""
    now: dict[int | str, Worker] = {one.id: one for one in pm2.workers(environment) if isinstance(one.id, int)}
    known = {worker.id for worker in before}
    others = iter([worker for id, worker in now.items() if id not in known] if len(before) == len(now) else [])
    found = [(old, now.get(old.id) or next(others, None)) for old in before]
    return [(old, new) for old, new in found if new]


def _state(environment: Deployment) -> str:
    """Say which workers serve and which are down."""
    now = pm2.workers(environment)
    up = health.answering(environment.api.health_url, {worker.pid for worker in now})
    said = []
    for worker in now:
        ran = worker.release.name if worker.release else "unknown"
        silent = "is down" if up.silent(worker.pid) else "may answer, which nobody can tell"
        does = "answers" if worker.pid in up.pids else silent
        said.append(f"worker {worker.id} {does} ({worker.status}, release {ran})")
    return f"Now: {', '.join(said)}."


def _point_back(environment: Deployment, before: Sequence[Worker]) -> Path | None:
    """Put the release that these workers ran in force, and give it; None if it is not known."""
    ran = next((worker.release for worker in before if worker.release), None)
    link = environment.api.release
    if ran and ran != link.resolve() and ran.is_dir() and link.is_symlink():
        beside = link.with_name(f".{link.name}.undo")
        beside.unlink(missing_ok=True)
        beside.symlink_to(os.path.relpath(ran, link.parent))
        os.replace(beside, link)
    return ran


def _spare(environment: Deployment, worker: Worker) -> None:
    """Wait until nobody misses this worker: all the others answer, or it is down itself, or the whole API is.

    PM2 takes the old worker away after `listen_timeout`, ready or not the new one, and calls that one online. Raise
    RunbookError after SPARE_SECONDS: answers that do not come in time are no proof that there is nothing to lose.
    """
    ends = time.monotonic() + SPARE_SECONDS
    while True:
        now = pm2.workers(environment)
        if all(one.status in BROKEN for one in now if one.id == worker.id):
            return
        others = [one for one in now if one.id != worker.id]
        if not others:
            return
        up = health.answering(environment.api.health_url, {one.pid for one in others if one.status not in BROKEN})
        silent = [one for one in others if one.status in BROKEN or up.silent(one.pid)]
        if not silent or (not up and health.away(environment.api.health_url)):
            return
        if time.monotonic() > ends or all(one.status in BROKEN for one in silent):
            named = ", ".join(f"worker {one.id} ({one.status})" for one in silent)
            raise RunbookError(
                f"worker {worker.id} was not taken away: of the others {named} gives no answer, and without it nobody "
                "might. See why, and replace that one first, with restart_api."
            )
        time.sleep(0.5)


def _begun(environment: Deployment, worker: Worker) -> Worker:
    """Give this worker with the restarts up to the one just made: those before are no sign that it does not stay up."""
    made = [one.restarts for one in pm2.workers(environment) if one.id == worker.id]
    return dataclasses.replace(worker, restarts=max([worker.restarts, *(count - 1 for count in made)]))
