"""Runs the plan of every notebook on the stand-in and stores the outputs in the sources."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import nbformat

from opslib.runbook import procedure, runner
from opslib.runbook.errors import Outcome
from tests import sandbox
from tests.drills import access_key, database, jwt_secret, recovery, slow_query, standing, stripe_agreement
from tests.sandbox.layout import PM2_HOME

GROUNDS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "backup_database": recovery.backed_up,
    "build_index": slow_query.slow,
    "deactivate_s3_key": access_key.rested,
    "delete_s3_key": access_key.rested,
    "drop_invalid_index": slow_query.broken,
    "drop_replaced_database": recovery.replaced,
    "reactivate_s3_key": access_key.rested,
    "recover_database": recovery.backed_up,
    "retire_database_login": database.rotated,
    "retire_jwt_secret": jwt_secret.overdue,
    "retire_stripe_key": partial(stripe_agreement.kept, stripe_agreement.KEY),
    "retire_webhook_secret": partial(stripe_agreement.kept, stripe_agreement.SECRET),
    "stop_and_start_api": standing.stopped,
    "take_recovery_back": recovery.replaced,
    "tune_queries": slow_query.forgotten,
}
"""What must be there for the plan of a procedure, besides the stand-in as it is started."""


def main(names: Sequence[str]) -> int:
    """Remake the outputs of these notebooks, or of all; 1 if a plan did not hold."""
    sandbox.start()
    os.environ["PM2_HOME"] = str(PM2_HOME)  # as whoever runs the API has it, for connect_deployment to find
    for name in names or procedure.names():
        one = procedure.load(name)
        with GROUNDS.get(name, nullcontext)():
            execution = asyncio.run(runner.run(one, {}))
        print(f"{name}: {execution.outcome}: {execution.why}")
        if execution.outcome is not Outcome.PLANNED:
            return 1
        executed = {cell["id"]: cell for cell in execution.notebook["cells"]}
        for number, cell in enumerate((c for c in one.notebook["cells"] if c["cell_type"] == "code"), 1):
            cell["execution_count"] = number
            # The steps for machines hold times and this machine's processes: only what people see is kept.
            cell["outputs"] = [{**output, "metadata": {}} for output in executed[cell["id"]]["outputs"]]
        nbformat.write(nbformat.from_dict(one.notebook), one.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
