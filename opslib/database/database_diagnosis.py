"""The diagnosis: what is wrong between the API and PostgreSQL, one sentence each, and the procedure that mends it."""

from collections.abc import Sequence

from opslib.api.health import Response
from opslib.database.blocking import Blocking
from opslib.database.reach import Reach
from opslib.database.session import IDLE, Session
from opslib.database.slots import Limit


def findings(
    reached: Reach, limits: Sequence[Limit], sessions: Sequence[Session], api: Response, *, older_than: float
) -> list[str]:
    """Say what was found, the most urgent first. `older_than` are seconds."""
    found = (
        [] if reached.cause == "none" else [f"{_HEADS.get(reached.cause, 'The API cannot log in')}. {reached.remedy}"]
    )
    found += [_crowded(limit, sessions) for limit in limits if limit.crowded]
    forest = Blocking.among(sessions)
    found += [
        f"Session {node.title} keeps {len(forest.behind(node.pid))} waiting: {node.does}."
        for node in forest.nodes
        if not node.depth
    ]
    found += [
        f"Session {one.pid} {one.name} idles in a transaction for {one.age:.0f} s; it blocks nobody but vacuum."
        for one in sessions
        if one.state in IDLE and one.age >= older_than and one.pid not in forest.roots
    ]
    found += [
        f"Session {one.pid} {one.name} runs one statement for {one.age:.0f} s: open tune_queries if it is not a report."
        for one in sessions
        if one.kind == "client backend" and one.state == "active" and not one.blocked_by and one.age >= older_than
    ]
    if not api.well:
        found.append(f"The API says {api.problem}." + ("" if found else " PostgreSQL is well: open restart_api."))
    return found or ["PostgreSQL lets the API in, nothing waits, slots are free, and the API is well."]


_HEADS = {
    "refused": "PostgreSQL is down",
    "timeout": "PostgreSQL does not answer",
    "unreachable": "PostgreSQL is not reached",
    "dns": "The host of PostgreSQL is not known",
    "starting": "PostgreSQL is starting or stopping",
    "full": "PostgreSQL is saturated",
}


def _crowded(limit: Limit, sessions: Sequence[Session]) -> str:
    here = [one for one in sessions if one.kind == "client backend"]
    most = max({one.name for one in here}, key=lambda name: (sum(one.name == name for one in here), name), default="")
    count = sum(one.name == most for one in here)
    return f"Of {limit.slots} slots of {limit.of} {limit.taken} are taken, {count} of them by {most}."
