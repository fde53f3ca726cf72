"""A rotation of a Stripe secret: what it begins with, what stands in its way, and what a killed run leaves behind."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.deployment.staged_secret import Staged
from opslib.payments import rotation_readiness, stripe_rotation
from opslib.payments.stripe_rotation import Rotation
from opslib.propertypulse import PropertyPulse
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter
from tests.place import Place

What = Literal["key", "webhook"]
OLD, NEW, NEXT = "sk_test_old1", "rk_test_new2", "sk_test_next3"
DOTENV = f"# Stripe\nSTRIPE_SECRET_KEY={OLD}\nSTRIPE_WEBHOOK_SECRET='whsec_old'\r\nPORT=5000\r\n"


@pytest.fixture(name="env")
def _env(place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    file = place.folder / "parameters/test.yaml"
    text = file.read_text().replace("[JWT_SECRET]", "[STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET]")
    file.write_text(text + "stripe: {mode: test}\n")
    (place.folder / "app/.env").write_bytes(DOTENV.encode())
    (place.folder / "app/webhooks.js").write_text("[process.env.STRIPE_WEBHOOK_SECRET_PREVIOUS]")
    return propertypulse.load("test")


def begin(env: PropertyPulse, what: What, value: str | None = None) -> Rotation:
    """Begin a rotation with a new value where the environment's reference points."""
    for name in ("NEW_STRIPE_SECRET_KEY", "NEW_STRIPE_WEBHOOK_SECRET"):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return stripe_rotation.of_key(env) if what == "key" else stripe_rotation.of_secret(env)


def obstacle(rotation: Rotation) -> str:
    """Why it may not begin; empty if it may."""
    answer = rotation_readiness.begins(rotation)
    assert bool(answer) != bool(answer.otherwise)
    return answer.otherwise


def write(env: PropertyPulse, rotation: Rotation) -> None:
    """What the rollout writes."""
    env_file.edit(env.api.env_file, rotation.values)


def bring(env: PropertyPulse, what: What, value: str) -> Rotation:
    """Carry out a rotation, but for the workers."""
    rotation = begin(env, what, value)
    stripe_rotation.keep(rotation).do()
    write(env, rotation)
    stripe_rotation.finish(rotation).do()
    return rotation


@pytest.fixture(name="stripe")
def _stripe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """What Stripe says of the old key: that it takes it, until a test says otherwise."""
    said = {"refused": Answer(False)}
    monkeypatch.setattr(rotation_readiness, "refused", lambda environment, key: said["refused"])
    return said


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
def test_a_value_must_be_of_its_kind(env: PropertyPulse, stage: What, value: str, said: str) -> None:
    found = obstacle(begin(env, stage, value))
    assert said in found and bool(said) == bool(found)
    assert value not in found


def test_without_a_value_it_is_refused(env: PropertyPulse) -> None:
    with pytest.raises(BadParameter, match="NEW_STRIPE_SECRET_KEY is not set"):
        begin(env, "key")
    with pytest.raises(BadEnvironment, match="has no `stripe:`"):
        begin(env.model_copy(update={"stripe": None}), "key")


def test_a_rotation_begins_when_the_one_before_is_retired(env: PropertyPulse, stripe: dict[str, Answer]) -> None:
    bring(env, "key", NEW)
    assert env_file.read(env.api.env_file)["STRIPE_SECRET_KEY"] == NEW
    assert "not retired yet" in obstacle(begin(env, "key", NEXT))
    assert obstacle(begin(env, "key", NEW)) == ""  # done over
    staged = Staged(env, "STRIPE_SECRET_KEY")
    assert rotation_readiness.retires(staged, "rotate_stripe_key")
    assert "Wait, then run again" in rotation_readiness.quiet(env, staged, "").otherwise
    assert rotation_readiness.quiet(env, staged, "leaked")
    assert not rotation_readiness.expired(env, staged)
    stripe["refused"] = Answer(True)
    assert rotation_readiness.quiet(env, staged, "")  # nobody uses what Stripe refuses
    assert rotation_readiness.expired(env, staged)
    stripe_rotation.forget(staged).do()
    assert (
        staged.previous == "" and rotation_readiness.expired(env, staged) and rotation_readiness.quiet(env, staged, "")
    )
    assert obstacle(begin(env, "key", NEXT)) == ""


def test_the_old_secret_is_kept_where_the_api_reads_it_until_it_is_retired(env: PropertyPulse) -> None:
    assert bring(env, "webhook", "whsec_new").values == {
        "STRIPE_WEBHOOK_SECRET": "whsec_new",
        "STRIPE_WEBHOOK_SECRET_PREVIOUS": "whsec_old",
    }
    retire = stripe_rotation.retirement(env)
    assert retire.values == {"STRIPE_WEBHOOK_SECRET_PREVIOUS": None}
    assert (retire.new, retire.old) == ("whsec_new", "whsec_old")
    write(env, retire)
    assert stripe_rotation.retirement(env).resumed
    stripe_rotation.forget(retire.staged).do()
    assert env.api.env_file.read_bytes() == DOTENV.replace("'whsec_old'", "whsec_new").encode()


def test_a_wrong_secret_is_given_up_for_the_right_one_and_the_old_one_stays(env: PropertyPulse) -> None:
    bring(env, "webhook", "whsec_wrong")
    again = begin(env, "webhook", "whsec_right")
    assert obstacle(again) == ""
    assert again.values["STRIPE_WEBHOOK_SECRET_PREVIOUS"] == "whsec_old"
    stripe_rotation.keep(again).do()
    assert stripe_rotation.keep(again).undo
    again.staged.discard()
    assert again.staged.previous == "whsec_old"
    bring(env, "webhook", "whsec_right")
    assert stripe_rotation.retirement(env).old == "whsec_old"


@pytest.mark.parametrize("given", [True, False], ids=["reference still there", "reference gone"])
@pytest.mark.parametrize("killed", range(4))
@pytest.mark.parametrize(("stage", "value"), [("key", NEW), ("webhook", "whsec_new")])
def test_a_killed_run_is_carried_on(env: PropertyPulse, stage: What, value: str, killed: int, given: bool) -> None:
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
    assert (again.new, again.old, again.values) == (first.new, first.old, first.values)
    assert again.resumed == (killed >= 2)
    stripe_rotation.keep(again).do()
    write(env, again)
    stripe_rotation.finish(again).do()
    assert (again.staged.current, again.staged.pending, again.staged.previous) == (value, "", first.old)
    assert env_file.edits(env.api.env_file) == []


def test_what_was_staged_and_is_not_in_force_gives_way_to_another_value(env: PropertyPulse) -> None:
    stripe_rotation.keep(begin(env, "key", NEW)).do()
    again = begin(env, "key", NEXT)
    assert obstacle(again) == ""
    stripe_rotation.keep(again).do()
    assert (again.staged.pending, again.staged.previous) == (NEXT, OLD)
    write(env, again)
    assert "was begun and has not ended" in obstacle(begin(env, "key", NEW))
    assert "has begun and not ended" in rotation_readiness.retires(again.staged, "rotate_stripe_key").otherwise


def test_undo_forgets_what_was_staged_and_both_stay_as_they_were(env: PropertyPulse) -> None:
    keep = stripe_rotation.keep(begin(env, "key", NEW))
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
def test_an_old_key_is_retired_when_it_was_quiet(
    env: PropertyPulse, stripe: dict[str, Answer], used: str, said: str
) -> None:
    staged = bring(env, "key", NEW).staged
    file = staged.file
    since = (datetime.now(UTC) - timedelta(hours=30)).isoformat()
    env_file.edit(file, {"STRIPE_SECRET_KEY_SINCE": since})
    answer = rotation_readiness.quiet(env, staged, used)
    assert said in answer.otherwise and bool(answer) == (not said)


def test_no_value_is_shown(env: PropertyPulse, tmp_path: Path) -> None:
    rotation = begin(env, "key", NEW)
    changes = [
        stripe_rotation.keep(rotation),
        stripe_rotation.finish(rotation),
        stripe_rotation.forget(rotation.staged),
    ]
    shown = f"{rotation!r} {rotation_readiness.begins(rotation)} {[one.describe() for one in changes]}"
    assert NEW not in shown and OLD not in shown


def test_where_the_code_takes_one_secret_the_new_one_stands_alone(env: PropertyPulse) -> None:
    (env.api.release / "webhooks.js").write_text("process.env.STRIPE_WEBHOOK_SECRET")
    assert not stripe_rotation.takes_two(env)
    rotation = begin(env, "webhook", "whsec_new")
    assert (rotation.values, rotation.beside, rotation.taken) == (
        {"STRIPE_WEBHOOK_SECRET": "whsec_new"},
        "",
        "whsec_old",
    )
    bring(env, "webhook", "whsec_new")
    later = begin(env, "webhook", "whsec_later")
    assert (later.old, later.taken) == ("whsec_old", "whsec_new")  # what was kept aside is not what the API takes
