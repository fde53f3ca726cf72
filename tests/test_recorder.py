"""The recorder of what changes run: what a plan did not show is found."""

from pathlib import Path

import pytest

from tests import recorder
from tests.place import Place

CHANGES = """\
import os, subprocess
from opslib import program
here = {"PATH": os.environ["PATH"]}
said = Change("Say it", [program(["touch", "said"], here)], undo=Kept("fine"), replaces=str)
lied = Change("Hide it", [act("touch said", run=lambda: subprocess.run(["touch", "hidden"]))], undo=Kept("fine"),
              replaces=str)
run.plan(said, lied)"""


def test_what_ran_and_was_not_shown_is_found(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("act", CHANGES, "run.apply(said, lied)", "run.verify('Done', lambda: True)", "run.finish()")
    with recorder.recording(tmp_path / "acts", monkeypatch) as found:
        done = place.runbook("run", "act", "--apply")
        assert done.returncode == 0, done.stdout + done.stderr
    assert [(one.change, one.ran) for one in found] == [("Say it", ["touch said"]), ("Hide it", ["touch hidden"])]
    assert [one.unshown for one in found] == [[], ["touch hidden"]]
