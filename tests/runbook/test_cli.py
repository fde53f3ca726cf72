"""The command: what it says and how it ends, whatever it is given."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from opslib.runbook.cli import main
from tests.place import Place

REFUSED = 4


@pytest.fixture(autouse=True)
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    place.write("act", "run.check('The sky is blue', True)", "run.finish()")
    return place


def test_list_gives_a_line_for_each_procedure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["act", "Does what a test wants.\n"]


def test_a_broken_notebook_is_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "notebooks/broken.ipynb").write_text("{")
    assert main(["list"]) == REFUSED
    assert "broken.ipynb: not a notebook that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "acts"], "there is no procedure 'acts'. Did you mean act?"),
        (["run", "act", "-e", "nowhere"], "there is no environment 'nowhere': parameters/ has test"),
        (["run", "act", "-e", "../../etc/passwd"], "there is no environment"),
        (["run", "act", "-p", "reason", "a", "-p", "reason", "b"], "parameter reason is given twice"),
        (["run", "act", "-p", "reason", "a", "--reason", "b"], "reason is given twice, by -p and by its option"),
        (["show", "nothing"], "'nothing' names 0 records (none). `runbook records` lists them."),
        (["verify", "nothing"], "names 0 records"),
    ],
)
def test_what_is_refused_at_once(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == REFUSED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("runbook: ")
    assert said in shown.err


def test_no_stand_in_is_meant_once_a_deployment_is_set_up(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    described = place.folder / "parameters/test.yaml"
    (place.folder / "parameters/broken.yaml").write_text(f"stand_in: make broken\n{described.read_text()}")
    assert main(["run", "act"]) == 0  # the only one that is no stand-in
    assert "/records/test/" in capsys.readouterr().out
    (place.folder / "parameters/second.yaml").write_text(described.read_text())
    assert main(["run", "act"]) == REFUSED
    assert "no environment is named, and there are second, test: name one with -e" in capsys.readouterr().err
    described.unlink()
    (place.folder / "parameters/second.yaml").unlink()
    assert main(["run", "act"]) == REFUSED  # what the notebook declares, which is gone
    assert "there is no environment 'test'" in capsys.readouterr().err


def test_a_stand_in_that_does_not_run_says_so_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    described = place.folder / "parameters/test.yaml"
    described.write_text(f"stand_in: make place\n{described.read_text()}")
    (place.folder / "app/.env").unlink()
    assert main(["run", "act"]) == REFUSED
    assert "A place for tests does not run: `make place` starts it" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["runs"], ["run"], ["run", "act", "--aply"], ["run", "act", "-p", "x"]])
def test_what_is_no_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_nothing_recorded_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records"]) == 0
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "The records are whole and unaltered.\n"


def test_a_run_for_people_and_for_machines(place: Place) -> None:
    done = place.runbook("run", "act", "--reason", "to see", "--incident", "INC-7")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[1] == "✓ The sky is blue"
    assert lines[2].startswith("planned: all checks held")
    record = json.loads(Path(lines[-1]).read_text())["metadata"]["opslib"]
    assert (record["reason"], record["incident"]) == ("to see", "INC-7")
    done = place.runbook("run", "act", "--json")
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["step"] for one in steps] == ["start", "check", "end", "record"]
    assert steps[-1]["outcome"] == "planned"
    assert Path(steps[-1]["record"]).is_file()


def test_the_terminal_shows_what_was_seen_and_what_is_wrong(place: Place) -> None:
    rows = "[{'pid': n} for n in range(23)]"
    checks = ["run.check('Well', True, {'cpu': 1})", "run.check('Ill', False, 'why')"]
    place.write("look", f"run.note('Seen', {rows})", *checks)
    done = place.runbook("run", "look")
    assert done.returncode == 1
    shown = done.stdout.splitlines()
    assert [line.strip() for line in shown[1:4]] == ["· Seen", "pid", "0"]
    assert "    … 3 more in the record" in shown
    assert [line.strip() for line in shown if "cpu" in line] == []
    assert shown[shown.index("✗ Ill") + 1] == "    why"


def test_a_reader_that_goes_away_costs_the_run_nothing(place: Place) -> None:
    place.write("slow", "import time; time.sleep(.5)", *["run.note('x' * 5000)"] * 30, "run.finish()")
    with place.start("run", "slow") as run:
        assert run.stdout
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(60) == 0
        assert run.stderr
        assert run.stderr.read() == ""
    listed = place.runbook("records").stdout
    assert "planned" in listed


def test_a_terminal_that_closes_stops_the_run(place: Place) -> None:
    place.write(
        "slow", "from pathlib import Path\nPath('waiting').touch()\nimport time; time.sleep(60)", "run.finish()"
    )
    with place.start("run", "slow") as run:
        while not (place.folder / "waiting").exists():
            assert run.poll() is None
        run.send_signal(signal.SIGHUP)
        assert run.communicate(timeout=60)[0].splitlines()[-2].startswith("interrupted: Stopped by SIGHUP.")
        assert run.returncode == 128 + signal.SIGHUP


@pytest.mark.parametrize("after", [0.05, 0.15, 0.25, 0.35, 0.5])
def test_a_signal_while_it_starts_leaves_no_trace_back(place: Place, after: float) -> None:
    with place.start("run", "act") as run:
        try:
            run.wait(after)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=60)
    assert "Traceback" not in err
    assert run.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM, 0)
