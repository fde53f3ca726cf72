"""A record as HTML: it says what the record says, and asks nothing of the network."""

import json
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from opslib.runbook import export, ledger, listing, record
from opslib.runbook.errors import Refused
from tests.place import SECRET, Place

NASTY = '<script>alert(1)</script><img src=http://example.com/x.png> & "quotes" | pipes'
CHANGE = """\
back = {undo}
change = Change("Try", [act("true", run=lambda: {do})], replaces=lambda: "it",
                undo=[act("as it was before", run=back)] if back else Kept("there is no undo for this change"))
run.plan(change)"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path / "place")
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    return place


def _render(place: Place, name: str, *arguments: str) -> tuple[Path, str]:
    place.run(name, *arguments)
    (file,) = (place.folder / "records/test").glob(f"*-{name}-*.ipynb")
    return file, export.html(file).read_text(encoding="utf-8")


class _Parts(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action", "style")]
        assert not [name for name, _ in attributes if name.startswith("on")]


def _rows(page: str) -> Iterator[tuple[str, str]]:
    return ((key, unescape(value)) for key, value in re.findall(r"<tr><th>([^<]+)<td>([^<]*)", page))


def test_summary_and_timeline(place: Place) -> None:
    place.write("look", 'run.check("Is it well", True, {"a": 1})', "run.finish()")
    file, page = _render(place, "look", "--reason", NASTY, "--incident", "I1")
    rows = dict(_rows(page))
    assert "Planned: it only showed what it would do, and changed nothing." in page
    assert rows["Procedure"] == "look (plan only)"
    assert rows["Environment"] == "test"
    assert rows["Reason"] == NASTY
    assert rows["Incident"] == "I1"
    assert rows["Seal"] == "sealed, and unaltered since"
    assert rows["Record"] == file.name
    assert {"Operator", "Started", "Finished", "Took"} <= rows.keys()
    timeline = page.partition("Timeline")[2].partition("The notebook")[0]
    assert re.findall(r">(start|check|end)<td", timeline) == ["start", "check", "end"]
    assert "Is it well" in timeline


@pytest.mark.parametrize(
    ("do", "undo", "said"),
    [
        ("1", "lambda: None", "Applied: every change was made, and every check held."),
        ("1 / 0", "lambda: None", "Undone: a change failed, and what had been changed was put back."),
        ("1 / 0", "None", "Needs a person: something is changed, and neither verified nor undone."),
    ],
)
def test_outcomes(place: Place, do: str, undo: str, said: str) -> None:
    place.write("act", CHANGE.format(do=do, undo=undo), "run.apply(change)", "run.finish()")
    _, page = _render(place, "act", "--apply")
    assert said in page
    assert ("Changed, not undone" in page) == ("Needs a person" in said)


def test_what_was_found_or_gone_on_with_is_not_called_well(place: Place) -> None:
    gone_on = 'run.check("A reload drops no request", False, accept=True)'
    place.write("act", CHANGE.format(do="1", undo="lambda: None"), gone_on, "run.apply(change)", "run.finish()")
    _, page = _render(place, "act", "--apply")
    assert "Applied: every change was made, and the operator went on with an answer that was not yes." in page
    assert dict(_rows(page))["Accepted all the same"] == "A reload drops no request"
    found = "from opslib.runbook.finding import Finding\nrun.find(Finding('a key is old', 'rotate'))"
    place.write("look", found, "run.finish()")
    _, page = _render(place, "look")
    assert (
        '<p class="outcome bad">Planned: it only showed what it would do, and changed nothing. It found something wrong'
        in page
    )
    assert dict(_rows(page))["Found wrong"] == "a key is old (runbook run rotate -e test)"


def test_page_is_whole_in_itself_and_harmless(place: Place) -> None:
    show = f"from IPython.display import HTML, Markdown, display\n\ndisplay(HTML({NASTY!r}), Markdown({NASTY!r}))"
    source = place.write("show", show, f"print({NASTY!r}, open('app/.env').read())", "run.finish()")
    notebook = json.loads(source.read_text())
    notebook["cells"][0]["source"] += f"\n\n[The other one](other.ipynb#x) {NASTY} $x^2$"
    source.write_text(json.dumps(notebook))
    file, page = _render(place, "show")
    parts = _Parts(page)
    assert not set(parts.tags) & {"script", "link", "iframe", "form", "object", "embed"}
    assert [address for address in parts.addresses if not address.startswith(("#", "data:"))] == []
    assert "<em>The other one</em> (<code>other</code>)" in page
    assert SECRET not in unescape(page)
    assert "JWT_SECRET masked" in page
    assert file.with_suffix(".html").stat().st_mode & 0o777 == 0o600


def test_page_beside_the_record_changes_nothing_else(place: Place) -> None:
    place.write("look", "run.finish()")
    file, _ = _render(place, "look")
    assert ledger.problems() == []
    assert [one.path for one in listing.records()] == [file]


def test_altered_and_unfinished(place: Place) -> None:
    place.write("look", "run.finish()")
    file, _ = _render(place, "look")
    file.write_bytes(file.read_bytes().replace(b"all checks held", b"all checks hold"))
    assert "NOT INTACT" in export.html(file).read_text()
    content = json.loads(file.read_text())
    for key in ("outcome", "finished", "why"):
        del content["metadata"]["opslib"][key]
    other = file.with_name("20000101T000000Z-look-00000000.ipynb")
    other.write_bytes(record.dumps(content))
    page = export.html(other).read_text()
    assert "Interrupted: it was stopped before its end." in page
    assert dict(_rows(page))["Seal"] == "not sealed: it is not finished"


def test_no_record(tmp_path: Path) -> None:
    file = tmp_path / "x.ipynb"
    file.write_text("{}")
    with pytest.raises(Refused, match="found no record that can be read"):
        export.html(file)


def test_a_page_replaces_its_like_and_no_other_file(place: Place) -> None:
    place.write("look", 'run.check("Is it well", True)', "run.finish()")
    file, page = _render(place, "look")
    assert export.html(file).read_text(encoding="utf-8") == page
    others = file.with_suffix(".html")
    others.write_text("<!doctype html>\n<p>Notes of mine")
    with pytest.raises(Refused, match="no page of a record, and would be lost"):
        export.html(file)
    assert others.read_text() == "<!doctype html>\n<p>Notes of mine"
