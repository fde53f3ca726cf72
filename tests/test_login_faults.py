"""PostgreSQL failing at each login and each statement of the database rotation's changes and questions."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.database import login_rotation, postgres, role
from opslib.database.login import Login
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import RunbookError, UndoFailed
from tests import postgres_front
from tests.drills.database import Saved
from tests.postgres_front import Front, How
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

pytestmark = pytest.mark.usefixtures("saved")

TWIN = role.twin(cluster.ROLE)
LONG = pytest.mark.long
PASSING = ["cut", pytest.param("lost", marks=LONG), pytest.param("statement timeout", marks=LONG)]


@pytest.fixture(scope="module")
def saved(sandbox: None) -> Iterator[Saved]:
    one = Saved.now()
    yield one
    one.put_back()


@pytest.fixture
def front() -> Iterator[Front]:
    with Front() as front:
        yield front


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again for a moment only."""
    real = postgres.carry_out
    monkeypatch.setattr(postgres, "carry_out", lambda *what, within: real(*what, within=min(within, 0.1)))


@pytest.fixture
def env(tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    """The stand-in with an `.env` of its own; it and the administrator reach PostgreSQL by way of the front."""
    monkeypatch.setattr(postgres, "PAUSE", 0.02)
    known, found = Credentials.load(), propertypulse.load("sandbox")
    with cluster.connect_admin(known) as admin:
        admin.execute(f"DROP ROLE IF EXISTS {TWIN}")
    file = tmp_path / ".env"
    file.write_bytes(DOTENV.read_bytes())
    file.chmod(0o600)
    env_file.drop(env_file.edit(file, {"DATABASE_URL": front.url(known.database_url)}))  # type: ignore[arg-type]  # it differs
    (reference := tmp_path / "admin").write_text(front.url(known.postgres_url))
    reference.chmod(0o600)
    assert found.database
    database = found.database.model_copy(update={"admin": f"file:{reference}"})
    return found.model_copy(update={"api": found.api.model_copy(update={"env_file": file}), "database": database})


@dataclass(frozen=True)
class State:
    """What must be as before where a change was not made, or was undone."""

    dotenv: bytes
    staged: dict[str, str]
    verifier: str
    twin: bool

    @classmethod
    def of(cls, env: PropertyPulse) -> "State":
        login = Login(env)
        with cluster.connect_admin(Credentials.load()) as admin:
            held: dict[str, str] = dict(
                admin.execute(
                    "SELECT rolname, CASE WHEN rolcanlogin THEN rolpassword END FROM pg_authid WHERE rolname = ANY(%s)",
                    [[cluster.ROLE, TWIN]],
                ).fetchall()
            )
        staged = env_file.read(login.secret.file) if login.secret.file.exists() else {}
        return cls(env.api.env_file.read_bytes(), staged, held[cluster.ROLE], bool(held.get(TWIN)))

    def but_for_the_verifier(self) -> "State":
        """The same, where the old verifier could not be read, and one is made from the old password."""
        return dataclasses.replace(self, verifier="")


def made(env: PropertyPulse, method: str, what: str) -> Change:
    """The change, with the world as it finds it."""
    login = Login(env, method)
    if what == "lock":
        return login_rotation.lock(login)
    return login_rotation.create(login)


def done(env: PropertyPulse, method: str, what: str) -> bool:
    """Whether the world is as the change leaves it."""
    login = Login(env, method)
    if what == "lock":
        return bool(login.refused())
    return bool(login.works()) and (postgres.failure(login.old) is None) == (method == "alternate")


@pytest.fixture(params=["alternate create", "single create", "alternate lock"])
def case(request: pytest.FixtureRequest, env: PropertyPulse) -> tuple[str, str]:
    """A change, and the world in which it is made."""
    method, what = str(request.param).split()
    if what == "lock":
        login_rotation.create(login := Login(env)).do()
        env_file.edit(env.api.env_file, {"DATABASE_URL": login.new})
        login_rotation.keep(login).do()
    return method, what


def asked(question: Callable[[], Answer]) -> tuple[bool, str]:
    """Ask; an error is no, with what it says."""
    try:
        return bool(question()), ""
    except RunbookError as error:
        return False, str(error)


@pytest.mark.parametrize("how", PASSING)
def test_what_passes_is_tried_again(env: PropertyPulse, front: Front, case: tuple[str, str], how: How) -> None:
    before = State.of(env)
    for number in itertools.count():
        change = made(env, *case)
        front.fail(number, how)
        change.do()
        front.mend()
        assert done(env, *case), front.failed
        front.fail(number, how)
        change.put_back()
        front.mend()
        assert State.of(env) == before, front.failed
        if not front.failed and number > 6:
            break
    print(f"{number} logins and statements")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["down", pytest.param("denied", marks=LONG)])
def test_what_lasts_is_undone(env: PropertyPulse, front: Front, case: tuple[str, str], how: How) -> None:
    before, old = State.of(env), Login(env).old
    for number in itertools.count():
        change = made(env, *case)
        front.fail(number, how, times=999)
        failed = ""
        try:
            change.do()
        except RunbookError as error:
            failed = str(error)
        front.mend()
        if front.failed and "rolpassword" not in front.failed:
            assert "the administrator's URL: " in failed, front.failed
            assert ("server closed the connection" if how == "down" else "permission denied to alter role") in failed
        else:
            assert not failed or front.failed, failed
        change.put_back()
        assert State.of(env).but_for_the_verifier() == before.but_for_the_verifier(), front.failed
        assert how == "denied" or State.of(env) == before, front.failed
        assert postgres.failure(old) is None
        if not front.failed:
            break
    assert number > 4


@pytest.mark.usefixtures("impatient")
def test_undo_that_cannot_reach_postgresql_says_what_to_do_and_can_be_made_again(
    env: PropertyPulse, front: Front, case: tuple[str, str]
) -> None:
    before = State.of(env)
    change = made(env, *case)
    change.do()
    front.fail(0, "down")
    with pytest.raises(UndoFailed, match=r"could not log in: .* Run this procedure again once PostgreSQL answers"):
        change.put_back()
    front.mend()
    again = made(env, *case)
    again.do()
    assert done(env, *case)
    again.put_back()
    assert State.of(env) == before


@pytest.mark.usefixtures("impatient")
def test_without_a_login_nothing_is_changed_and_nothing_has_to_be_undone(
    env: PropertyPulse, front: Front, case: tuple[str, str]
) -> None:
    before = State.of(env)
    change = made(env, *case)
    front.fail(0, "down")
    with pytest.raises(RunbookError, match="could not log in"):
        change.do()
    change.put_back()  # PostgreSQL is still down
    front.mend()
    assert State.of(env) == before


@pytest.mark.parametrize("how", ["cut", pytest.param("full", marks=LONG), pytest.param("lock timeout", marks=LONG)])
def test_questions_are_asked_again(env: PropertyPulse, front: Front, how: How) -> None:
    login = Login(env)
    login_rotation.create(login).do()
    for question in (login.works, login.let_in, lambda: login.moved([])):
        for number in itertools.count():
            front.fail(number, how)
            answer = question()
            front.mend()
            if not front.failed:
                break
            # No answer is not yes, and a verify asks again.
            passes = question == login.let_in and answer.evidence in postgres.TRANSIENT
            assert answer or passes, (front.failed, answer)
        assert number > 0
    for number in itertools.count():
        front.fail(number, how)
        refused = bool(login.refused())
        front.mend()
        assert not refused, front.failed  # it is not: the role's password is the old one still
        if not front.failed:
            break


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["down", "statement timeout"])
def test_questions_without_an_answer_say_why(env: PropertyPulse, front: Front, how: How) -> None:
    login = Login(env)
    login_rotation.create(login).do()
    for number in itertools.count():
        front.fail(number, how, times=999)
        works, said = asked(login.works)
        front.mend()
        if not front.failed:
            break
        # A transaction that ends with its connection is rolled back as well.
        assert front.failed == "ROLLBACK" or (not works and "DATABASE_URL: " in said), front.failed
    assert works
    assert number > 4


@pytest.mark.long
def test_slow_it_takes_longer(env: PropertyPulse, front: Front) -> None:
    before = State.of(env)
    front.fail(0, "slow", times=999)
    began = time.monotonic()
    change = made(env, "single", "create")
    change.do()
    assert done(env, "single", "create")
    change.put_back()
    assert time.monotonic() - began > 10 * postgres_front.SLOW
    front.mend()
    assert State.of(env) == before


def test_role_that_somebody_else_is_altering_is_waited_for(env: PropertyPulse) -> None:
    before = State.of(env)
    with cluster.connect_admin(Credentials.load()) as other:
        other.execute("BEGIN")
        other.execute(f"ALTER ROLE {cluster.ROLE} CONNECTION LIMIT -1")
        change = made(env, "single", "create")
        letting_go = threading.Timer(2, other.execute, ["COMMIT"])
        letting_go.start()
        change.do()
        letting_go.join()
    assert done(env, "single", "create")
    change.put_back()
    assert State.of(env) == before
