"""What the drills of `recover_database` stand on: a proven backup, and what must be true however a run has ended."""

import secrets
from datetime import UTC, datetime

from opslib import backup, cluster, dump, environment, health, swap
from opslib.backup import Backup
from opslib.store import stores


def proven() -> Backup:
    """Take a backup of the stand-in now and say that it is proven, without the proof."""
    env = environment.load("sandbox")
    places = stores(env)[0]
    made, problem = dump.take(env, secrets.token_hex(4), places)
    assert not problem, problem
    for place in places:
        backup.prove(made, place, datetime.now(UTC))
    return backup.listed(env)[0]


def ready() -> None:
    """Have a proven backup, as a deployment has, which takes one each night."""
    if not any(one.proven for one in backup.listed(environment.load("sandbox"))):
        proven()


def problems() -> list[str]:
    """Say what is wrong after a run that ended; nothing if the API is well and nothing is stray."""
    env, wrong = environment.load("sandbox"), []
    if not health.steady(env.api.health_url, 10)[0]:
        wrong.append("the API is not well")
    found = swap.siblings(env)
    if [one.kind for one in found].count("live") != 1:
        wrong.append("there is no database of the live name")
    wrong += [f"{one.name} is left" for one in found if one.kind == "new"]
    wrong += [f"{one.name} is noted as {one.note}" for one in found if one.note]
    with cluster.connect(env, cluster.MAINTENANCE) as admin:
        rows = admin.execute("SELECT datname FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'")
        wrong += [f"nobody may log in to {row['datname']}" for row in rows]
    wrong += [f"{part} is left" for place in stores(env)[0] for part in place.unfinished()]
    return wrong


def clean() -> None:
    """Drop what runs have left beside the live database."""
    env = environment.load("sandbox")
    with cluster.connect(env, cluster.MAINTENANCE) as admin:
        for one in swap.siblings(env):
            if one.kind != "live":
                cluster.drop(admin, one.name)
