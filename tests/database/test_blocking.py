"""Who blocks whom, as a forest: roots, depth, rings, sessions that are gone, and the drawing."""

from datetime import UTC, datetime
from xml.etree import ElementTree

from hypothesis import given, strategies as st

from opslib.database.blocking import Blocking
from opslib.database.sessions import Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def session(pid: int, *blocked_by: int, query: str = "SELECT 1", state: str = "active") -> Session:
    ours = ("client backend", "app", "db", "web", "127.0.0.1", 1)
    return Session(pid, *ours, state, query, NOW, NOW, NOW, "", False, 5, blocked_by)


def lines(*sessions: Session) -> list[str]:
    return [row["session"].split(" web")[0] for row in Blocking.among(sessions).rows()]


def test_nobody_waits() -> None:
    forest = Blocking.among([session(1), session(2)])
    assert forest.roots == [] and forest.rows() == []
    assert "No session waits" in forest.svg()


def test_roots_come_before_what_waits_for_them() -> None:
    found = lines(session(1), session(2, 1), session(3, 2), session(4, 1), session(9), session(8, 9))
    assert found == ["1", "├─ 2", "│  └─ 3", "└─ 4", "9", "└─ 8"]


def test_one_that_waits_for_two_is_drawn_once_with_what_waits_for_it() -> None:
    forest = Blocking.among([session(1), session(2), session(3, 1, 2), session(4, 3)])
    assert sorted(forest.roots) == [1, 2]
    assert [node.again for node in forest.nodes if node.pid == 3] == [False, True]
    assert sum(node.pid == 4 for node in forest.nodes) == 1


def test_a_ring_has_no_root() -> None:
    assert Blocking.among([session(1, 2), session(2, 1)]).rows() == []


def test_a_prepared_transaction_and_one_that_has_ended_are_roots_too() -> None:
    rows = Blocking.among([session(2, 0), session(3, 77)]).rows()
    assert rows[0]["session"] == "a prepared transaction"
    assert "pg_prepared_xacts" in rows[0]["does"]
    assert rows[2]["session"] == "77 (gone when it was looked for)"


def test_drawing_is_well_formed_whatever_a_statement_says() -> None:
    forest = Blocking.among([session(1, state="idle in transaction", query="SELECT '</svg>' < \"a&b\""), session(2, 1)])
    tree = ElementTree.fromstring(forest.svg())
    texts = [text.text or "" for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert any("idle in transaction" in text for text in texts)
    assert any('< "a&b"' in text for text in texts)
    assert forest._repr_mimebundle_()["text/plain"].splitlines()[1].startswith("└─ 2")


@given(st.dictionaries(st.integers(1, 12), st.sets(st.integers(1, 12), max_size=4), max_size=12))
def test_any_graph_is_drawn_and_every_root_waits_for_nobody(graph: dict[int, set[int]]) -> None:
    forest = Blocking.among([session(pid, *sorted(by - {pid})) for pid, by in graph.items()])
    waits = {pid for pid, by in graph.items() if by - {pid}}
    assert not waits & {*forest.roots}
    drawn = [node.pid for node in forest.nodes if not node.again and not node.more]
    assert len(drawn) == len({*drawn})
    seen = sum(len(node.more) for node in forest.nodes) + len({*drawn} & {one.pid for one in forest.sessions})
    reached = {pid for root in forest.roots for pid in (root, *forest.behind(root))}
    assert seen == len(reached & {one.pid for one in forest.sessions})  # nobody is left out, or counted twice
    ElementTree.fromstring(forest.svg())


def queue(size: int, *, root: int = 1, first: int = 100) -> list[Session]:
    """Sessions that wait for one lock, each, as PostgreSQL says it, for the holder and for all before it."""
    return [session(first + n, root, *range(first, first + n)) for n in range(size)]


def test_a_queue_is_drawn_as_a_person_reads_it() -> None:
    forest = Blocking.among([session(1), *queue(60)])
    said = lines(session(1), *queue(60))
    assert said == ["1", *(f"├─ {100 + n}" for n in range(8)), "└─ … and 52 more"]
    assert forest.rows()[-1]["does"] == "wait, 5 to 5 s"
    assert len(forest.behind(1)) == 60
    assert len(forest._repr_mimebundle_()["text/plain"].splitlines()) == 10
    assert [node.depth for node in forest.nodes if node.session and not node.depth] == [0]


def test_a_queue_behind_one_that_waits_itself_is_below_it_and_counted() -> None:
    second = [session(200 + n, 100, *range(200, 200 + n)) for n in range(30)]
    assert lines(session(1), *queue(1), *second)[:3] == ["1", "└─ 100", "   ├─ 200"]
    assert lines(session(1), *queue(1), *second)[-1] == "   └─ … and 22 more"


def test_many_roots_are_drawn_in_a_page_those_that_most_wait_for_first() -> None:
    forest = Blocking.among(
        [one for root in range(1, 90) for one in (session(root), *queue(2 + (root == 77), root=root, first=root * 100))]
    )
    assert len(forest.rows()) == 41 and forest.rows()[0]["session"].startswith("77")
    assert forest.rows()[-1]["session"] == "… and 228 more"
    assert len([node for node in forest.nodes if not node.depth]) == 89  # each is a finding


def test_what_keeps_some_waiting_has_its_roots_and_nothing_else() -> None:
    forest = Blocking.among([session(1), session(2, 1), session(3, 2), session(4, 1), session(9), session(8, 9)])
    assert [node.pid for node in forest.before({3}).nodes] == [1, 2, 3]
    assert forest.before({3}).nodes[0].title == "1 web as app"
