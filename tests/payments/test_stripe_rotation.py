"""A rotation of a Stripe secret: what it begins with, what stands in its way, and what a killed run leaves behind."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.payments import stripe_rotation, stripe_stage
from opslib.payments.stripe_rotation import Rotation, Stage
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment, BadParameter
from tests.place import Place

OLD, NEW, NEXT = "sk_test_old1", "rk_test_new2", "sk_test_next3"
DOTENV = f"# Stripe\nSTRIPE_SECRET_KEY={OLD}\nSTRIPE_WEBHOOK_SECRET='whsec_old'\r\nPORT=5000\r\n"


@pytest.fixture(name="env")
def _env(place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    file = place.folder / "parameters/test.yaml"
    text = file.read_text().replace("[JWT_SECRET]", "[STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET]")
    file.write_text(text + "stripe: {mode: test}\n")
    (place.folder / "app/.env").write_bytes(DOTENV.encode())
    return propertypulse.load("test")


def begin(env: PropertyPulse, stage: Stage, value: str | None = None) -> Rotation:
    """Begin a stage with a new value where the environment's reference points."""
    for name in ("NEW_STRIPE_SECRET_KEY", "NEW_STRIPE_WEBHOOK_SECRET"):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return stripe_rotation.begin(env, stage)


def obstacle(rotation: Rotation, last_used: str = "") -> str:
    return stripe_stage.obstacle(rotation, last_used=last_used)


def write(env: PropertyPulse, rotation: Rotation) -> None:
    """What the rollout writes."""
    env_file.edit(env.api.env_file, rotation.values())


def bring(env: PropertyPulse, stage: Stage, value: str) -> Rotation:
    """Carry out a stage, but for the workers."""
    rotation = begin(env, stage, value)
    rotation.keep().do()
    write(env, rotation)
    rotation.close().do()
    return rotation


@pytest.mark.parametrize(
    ("stage", "value", "said"),
    [
        ("key", "sk_live_x1", "of live mode"),
        ("key", "pk_test_x1", "does not begin with sk_ or rk_"),
        ("key", "whsec_x1", "does not begin with sk_ or rk_"),
        ("key", "sk_test_x1 ", "does not begin with sk_ or rk_"),
        ("key", "sk_test_", "does not begin with sk_ or rk_"),
        ("key", OLD, "in force already"),
        ("key", NEW, ""),
        ("webhook", NEW, "does not begin with whsec_"),
        ("webhook", "whsec_old", "in force already"),
        ("webhook", "whsec_n%@:/#'\" ü" + "x" * 200, ""),
    ],
)
def test_a_value_must_be_of_its_kind(env: PropertyPulse, stage: Stage, value: str, said: str) -> None:
    found = obstacle(begin(env, stage, value))
    assert said in found and bool(said) == bool(found)
    assert value not in found


def test_without_a_value_it_is_refused(env: PropertyPulse) -> None:
    with pytest.raises(BadParameter, match="NEW_STRIPE_SECRET_KEY is not set"):
        begin(env, "key")
    with pytest.raises(BadEnvironment, match="has no `stripe:`"):
        begin(env.model_copy(update={"stripe": None}), "key")


def test_the_stages_follow_one_another(env: PropertyPulse) -> None:
    bring(env, "key", NEW)
    assert env_file.read(env.api.env_file)["STRIPE_SECRET_KEY"] == NEW
    assert "not retired yet" in obstacle(begin(env, "key", NEXT))
    assert obstacle(begin(env, "key", NEW)) == ""  # done over
    retire = begin(env, "retire-key")
    assert (retire.new, retire.old, retire.values()) == (NEW, OLD, {})
    assert "Wait, then run again" in obstacle(retire)
    assert obstacle(retire, "leaked") == ""
    retire.close().do()
    assert begin(env, "retire-key").old == ""
    assert obstacle(begin(env, "retire-key")) == ""
    assert obstacle(begin(env, "key", NEXT)) == ""


def test_the_old_secret_is_kept_where_the_api_reads_it_until_it_is_retired(env: PropertyPulse) -> None:
    assert bring(env, "webhook", "whsec_new").values() == {
        "STRIPE_WEBHOOK_SECRET": "whsec_new",
        "STRIPE_WEBHOOK_SECRET_PREVIOUS": "whsec_old",
    }
    retire = begin(env, "retire-webhook")
    assert retire.values() == {"STRIPE_WEBHOOK_SECRET_PREVIOUS": None}
    assert retire.answers_after["the one before"] == "refused"
    write(env, retire)
    assert begin(env, "retire-webhook").resumed
    retire.close().do()
    assert env.api.env_file.read_bytes() == DOTENV.replace("'whsec_old'", "whsec_new").encode()


def test_a_wrong_secret_is_given_up_for_the_right_one_and_the_old_one_stays(env: PropertyPulse) -> None:
    bring(env, "webhook", "whsec_wrong")
    again = begin(env, "webhook", "whsec_right")
    assert obstacle(again) == ""
    assert again.values()["STRIPE_WEBHOOK_SECRET_PREVIOUS"] == "whsec_old"
    again.keep().do()
    assert again.keep().undo
    again.staged.discard()
    assert again.staged.previous == "whsec_old"
    bring(env, "webhook", "whsec_right")
    assert begin(env, "retire-webhook").old == "whsec_old"


@pytest.mark.parametrize("given", [True, False], ids=["reference still there", "reference gone"])
@pytest.mark.parametrize("killed", range(4))
@pytest.mark.parametrize(("stage", "value"), [("key", NEW), ("webhook", "whsec_new")])
def test_a_killed_run_is_carried_on(env: PropertyPulse, stage: Stage, value: str, killed: int, given: bool) -> None:
    first = begin(env, stage, value)
    steps: list[Callable[[], object]] = [
        lambda: first.staged.create(lambda: value),
        lambda: first.staged.keep(),
        lambda: write(env, first),
        lambda: first.staged.finish(),
    ]
    for step in steps[: killed + 1]:
        step()
    again = begin(env, stage, value if given or killed == 3 else None)
    assert obstacle(again) == ""
    assert (again.new, again.old, again.values()) == (first.new, first.old, first.values())
    assert again.resumed == (killed >= 2)
    again.keep().do()
    write(env, again)
    again.close().do()
    assert (again.staged.current, again.staged.pending, again.staged.previous) == (value, "", first.old)
    assert env_file.edits(env.api.env_file) == []


def test_what_was_staged_and_is_not_in_force_gives_way_to_another_value(env: PropertyPulse) -> None:
    begin(env, "key", NEW).keep().do()
    again = begin(env, "key", NEXT)
    assert obstacle(again) == ""
    again.keep().do()
    assert (again.staged.pending, again.staged.previous) == (NEXT, OLD)
    write(env, again)
    assert "was begun and has not ended" in obstacle(begin(env, "key", NEW))
    assert "was begun and has not ended" in obstacle(begin(env, "retire-key"))


def test_undo_forgets_what_was_staged_and_both_stay_as_they_were(env: PropertyPulse) -> None:
    keep = begin(env, "key", NEW).keep()
    keep.do()
    keep.put_back()
    keep.put_back()
    assert env.api.env_file.read_bytes() == DOTENV.encode()
    assert begin(env, "key", NEW).staged.previous == ""


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ("", "Say when the old key was last used"),
        ("yesterday", "Say when"),
        (datetime.now(UTC).isoformat(), "less than 24 h ago"),
        (datetime.now(UTC).date().isoformat(), "less than 24 h ago"),
        ((datetime.now(UTC) - timedelta(hours=25)).isoformat(), ""),
        ((datetime.now(UTC) - timedelta(days=3)).date().isoformat(), ""),
    ],
    ids=["not said", "no time", "now", "today", "25 hours ago", "three days ago"],
)
def test_an_old_key_is_retired_when_it_was_quiet(env: PropertyPulse, used: str, said: str) -> None:
    bring(env, "key", NEW)
    file = begin(env, "retire-key").staged.file
    since = (datetime.now(UTC) - timedelta(hours=30)).isoformat()
    env_file.edit(file, {"STRIPE_SECRET_KEY_SINCE": since})
    found = obstacle(begin(env, "retire-key"), used)
    assert said in found and bool(said) == bool(found)


def test_no_value_is_shown(env: PropertyPulse, tmp_path: Path) -> None:
    rotation = begin(env, "key", NEW)
    shown = f"{rotation!r} {rotation.row()} {rotation.keep().describe()} {rotation.close().describe()}"
    assert NEW not in shown and OLD not in shown
