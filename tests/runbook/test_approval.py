"""Approvals: of this very plan, by somebody else, in time, and genuine."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.place import Place

PLAN = """\
one = Change("Set it", [act("set it", run=lambda: open("done", "a").write("1"))], undo=Kept("it stays set"),
             replaces=lambda: open("world").read())
run.plan(one)"""


@pytest.fixture
def shared(tmp_path: Path) -> Place:
    """A place whose plans need a second person; bob and root may sign."""
    place = Place(tmp_path / "place", approval="{default: none, careful: second-person}", limits="{}\nsigners: signers")
    (place.folder / "world").write_text("as it was")
    lines = []
    for name in ("bob", "root", "eve"):
        key = place.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        if name != "eve":
            lines.append(f'{name} namespaces="runbook" {key.with_suffix(".pub").read_text()}')
    (place.folder / "signers").write_text("".join(lines))
    place.write("careful", PLAN, "run.apply(one)", "run.finish()", tags={1: "apply"})
    return place


def digest(place: Place) -> str:
    """The digest of the plan as it is now."""
    shown = place.runbook("run", "careful").stdout
    found = re.search(r"Plan ([0-9a-f]{16})", shown)
    assert found, shown
    return found[1]


def sign(place: Place, plan: str, name: str = "bob", key: str = "", *more: str) -> "subprocess.CompletedProcess[str]":
    """Approve a plan as somebody."""
    return place.runbook("approve", plan, "--by", name, "--key", str(place.folder / (key or name)), *more)


def apply(place: Place, plan: str) -> tuple[int, str, bool]:
    """Apply with this approval; give the exit code, what was said, and whether anything was done."""
    done = place.runbook("run", "careful", "--apply", "--approval", plan)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, (place.folder / "done").exists()


def test_plan_that_somebody_else_signed_is_applied(shared: Place) -> None:
    plan = digest(shared)
    signed = sign(shared, plan)
    assert signed.returncode == 0, signed.stderr
    assert "set it" in signed.stdout
    code, said, done = apply(shared, plan)
    assert (code, done) == (0, True), said
    assert "is approved — by bob" in said


def test_without_a_signature_it_is_refused(shared: Place) -> None:
    code, said, done = apply(shared, digest(shared))
    assert (code, done) == (4, False)
    assert "runbook approve" in said


def test_one_s_own_signature_is_refused(shared: Place) -> None:
    plan = digest(shared)
    assert sign(shared, plan, "root").returncode == 0
    code, said, done = apply(shared, plan)
    assert (code, done) == (4, False)
    assert "cannot approve what root runs" in said


@pytest.mark.parametrize(("name", "key"), [("eve", "eve"), ("bob", "eve")])
def test_signature_of_somebody_not_allowed_is_refused(shared: Place, name: str, key: str) -> None:
    signed = sign(shared, digest(shared), name, key)
    assert signed.returncode == 4
    assert "is not one that" in signed.stderr


def test_expired_approval_is_refused(shared: Place) -> None:
    plan = digest(shared)
    assert sign(shared, plan, "bob", "", "--hours", "-1").returncode == 0
    code, said, done = apply(shared, plan)
    assert (code, done) == (4, False)
    assert "expired" in said


def test_altered_approval_is_refused(shared: Place) -> None:
    plan = digest(shared)
    assert sign(shared, plan, "bob", "", "--hours", "-1").returncode == 0
    file = next((shared.folder / "records/test/approvals").glob(f"{plan}*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"expires": "2999-01-01T00:00:00+00:00"}))
    code, said, done = apply(shared, plan)
    assert (code, done) == (4, False)
    assert "is not one that" in said


def test_plan_that_the_world_has_overtaken_is_void(shared: Place) -> None:
    plan = digest(shared)
    assert sign(shared, plan).returncode == 0
    (shared.folder / "world").write_text("another")
    code, said, done = apply(shared, plan)
    assert (code, done) == (4, False)
    assert "is not what it was then" in said


def test_record_altered_to_show_another_plan_cannot_be_approved(shared: Place) -> None:
    plan = digest(shared)
    (record,) = (shared.folder / "records/test").glob("*.ipynb")
    record.write_text(record.read_text().replace("set it", "harmless"))
    signed = sign(shared, plan)
    assert signed.returncode == 4
    assert "no record shows a plan" in signed.stderr


def test_policy_of_a_procedure_that_does_not_exist_is_an_error(shared: Place) -> None:
    file = shared.folder / "parameters/test.yaml"
    file.write_text(file.read_text().replace("careful:", "carefull:"))
    refused = shared.runbook("run", "careful")
    assert refused.returncode == 4
    assert "test.yaml:2: approval: " in refused.stderr
    assert "carefull" in refused.stderr


def test_digest_policy_asks_for_no_signature(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", approval="digest")
    (place.folder / "world").write_text("as it was")
    place.write("careful", PLAN, "run.apply(one)", "run.finish()", tags={1: "apply"})
    plan = digest(place)
    assert "takes the digest alone" in place.runbook("approve", plan).stdout
    assert apply(place, "0" * 16)[0] == 4
    assert apply(place, plan)[0] == 0
