"""JupyterLab as the person on call uses it: a real server, and where one is installed a real browser."""

import asyncio
import html
import http.cookiejar
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClosedError

from opslib.runbook import lab as lab_server, record as records
from tests.place import SECRET, Place, states

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OPTIONS += ["--disable-background-networking", "--disable-component-update"]

SICK = 'from pathlib import Path\n\nrun.check("Not sick", not Path("app/sick").exists(), otherwise="Remove app/sick.")'
PLAN = """\
mark = Path("app/mark")
change = Change("Add a mark", [act("echo x >> mark", run=lambda: mark.open("a").write("x"))],
                undo=Kept("a mark is no harm", matters=False), replaces=lambda: "the mark")
run.plan(change)"""
LEAK = """\
import ipywidgets

print(Path("app/.env").read_text())
ipywidgets.Text(value=Path("app/.env").read_text())"""

QUESTION = """\
from opslib.runbook import question
from opslib.runbook.errors import BadParameter

def fits(answers):
    if "://" in answers["login"]:
        raise BadParameter("login says where it is, not what it is")

asked = [question.Question("login", "Where the login is", "file:~/login"), question.Question("other", "What else", "")]
answers = question.ask("What nobody else knows", asked, fits)"""
ANSWERED = 'run.check("The login is known", "login" in answers, sorted(answers.items()))'


@dataclass
class Lab:
    """A running server."""

    place: Place
    address: str
    token: str
    log: Path

    def ask(self, path: str, method: str = "GET", body: Any = None, *, token: bool = True) -> tuple[int, str]:
        """Send a request; give the status and the text of the answer, with no redirect followed."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.address + path, data, method=method)
        if token:
            request.add_header("Authorization", f"token {self.token}")
        return _open(urllib.request.build_opener(_Stay), request)

    def copy(self, name: str, **values: str) -> Path:
        """Open a working copy by its form."""
        request = urllib.request.Request(
            f"{self.address}/runbook/{name}", urllib.parse.urlencode(values).encode(), method="POST"
        )
        request.add_header("Authorization", f"token {self.token}")
        status, where = _open(urllib.request.build_opener(_Stay), request)
        assert status == 303, where
        return self.place.folder / where.removeprefix("/lab/tree/")

    def listed(self, record: Path) -> str:
        """The outcome that `runbook records` shows."""
        lines = self.place.runbook("records", "--json").stdout.splitlines()
        return next((one["outcome"] for one in map(json.loads, lines) if one["path"] == str(record)), "")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def _open(opener: urllib.request.OpenerDirector, request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location") or error.read().decode()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    place = Place(tmp_path_factory.mktemp("lab") / "place")
    parameters = place.folder / "parameters"
    strict = (parameters / "test.yaml").read_text().replace("approval: none", "approval: digest")
    (parameters / "strict.yaml").write_text(strict)
    own = 'settle_seconds: int = 20  # [5..600] how long to wait\nhow: str = "soft"  # [soft|hard] how to stop it'
    place.write("look", SICK, LEAK, "run.finish()", parameters=own)
    apply = ["run.apply(change)", 'run.verify("The mark is there", mark.exists, within=2)', "run.finish()"]
    place.write("mend", SICK, PLAN, *apply, tags={2: "apply"})
    place.write("answer", QUESTION, ANSWERED, "run.finish()")
    place.write("wait", SICK, "import time\n\ntime.sleep(3)", "run.finish()")
    place.write("hang", SICK, "import time\n\ntime.sleep(60)", "run.finish()")
    home, temporary = place.folder / "home", Path(tempfile.mkdtemp(prefix="l-"))
    home.mkdir()
    log = place.folder / "log"
    variables = {**place.variables, "HOME": str(home), "TMPDIR": str(temporary)}
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "opslib.runbook.lab", "--no-browser", "--port", "18888"],
            env=variables, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        with server.stdout:
            found = re.search(r"(http://\S+)/runbook\?token=(\w+)", server.stdout.readline())
            assert found, log.read_text()
            yield Lab(place, found[1], found[2], log)
            server.terminate()
            assert server.wait(30) == 0
    assert "Traceback" not in log.read_text()
    assert "Error" not in log.read_text()
    assert [file.name for file in temporary.rglob("*")] == [f"opslib-{os.geteuid()}"]  # where scratch folders lay
    assert [file for file in home.rglob("*") if file.is_file()] == []
    shutil.rmtree(temporary)


# Without a browser


def test_nothing_is_shown_without_the_token(lab: Lab) -> None:
    for path in ("/runbook", "/runbook/look?settle_seconds=7"):
        status, where = lab.ask(path, token=False)
        assert (status, where) == (302, f"/login?next={urllib.parse.quote(path, safe='')}")
    assert lab.ask("/runbook/look", "POST", {}, token=False)[0] == 403


def test_list(lab: Lab) -> None:
    status, page = lab.ask("/runbook")
    assert status == 200
    for name in ("look", "mend", "hang"):
        assert f'<a href="/runbook/{name}">Try {name}</a>' in page
    assert "//" not in re.sub(r"<!--.*?-->", "", page).replace("</", "")


def test_form_takes_the_query_string(lab: Lab) -> None:
    status, page = lab.ask("/runbook/look?environment=strict&settle_seconds=7&how=hard&reason=%22%3Cb%3E&apply=true")
    assert status == 200
    assert 'min="5" max="600" value="7"' in page
    assert "<option selected>strict</option>" in page
    assert "<option selected>hard</option>" in page
    assert 'value="true" checked> Show the plan and carry it out' in page
    assert 'value="&quot;&lt;b&gt;"' in page


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("settle_seconds=1", "parameter settle_seconds: found 1, expected 5 to 600"),
        ("settle_seconds=soon", "parameter settle_seconds: found 'soon', expected a value of type int"),
        ("how=gently", "parameter how: found 'gently', expected soft or hard"),
        ("setle_seconds=7", "look has no parameter 'setle_seconds'; did you mean settle_seconds?"),
        ("environment=prod", "there is no environment 'prod': parameters/ has strict, test."),
    ],
)
def test_form_says_what_is_wrong(lab: Lab, query: str, said: str) -> None:
    status, page = lab.ask(f"/runbook/look?{query}")
    assert status == 200
    assert said in html.unescape(page)
    assert 'role="alert"' in page


def test_form_of_no_procedure(lab: Lab) -> None:
    status, page = lab.ask("/runbook/lock")
    assert status == 404
    assert "there is no procedure &#x27;lock&#x27;. Did you mean look?" in page


def test_form_needs_the_page_it_came_from(lab: Lab) -> None:
    opener = urllib.request.build_opener(_Stay, urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    _, page = _open(opener, f"{lab.address}/runbook/look?token={lab.token}")
    field = re.search(r'name="_xsrf" value="([^"]+)"', page)
    assert field
    for given, expected in (({}, 403), ({"_xsrf": field[1]}, 303)):
        body = urllib.parse.urlencode({"environment": "test", **given}).encode()
        assert _open(opener, urllib.request.Request(f"{lab.address}/runbook/look", body))[0] == expected


def test_form_refuses_a_secret(lab: Lab) -> None:
    with pytest.raises(AssertionError, match="parameter reason holds a secret") as refused:
        lab.copy("look", environment="test", reason=f"because {SECRET}")
    assert SECRET not in html.unescape(str(refused.value))
    assert SECRET not in lab.log.read_text()


def test_copy(lab: Lab) -> None:
    source = lab.place.folder / "notebooks/look.ipynb"
    content = json.loads(source.read_text())
    content["cells"][0]["source"] = "# Try look\nSee [the other](mend.ipynb#top)."
    source.write_text(json.dumps(content))
    copy = lab.copy("look", environment="test", settle_seconds="7", incident="I1")
    assert copy.stat().st_mode & 0o777 == 0o600
    notebook = json.loads(copy.read_text())
    about = notebook["metadata"]["opslib"]
    assert about["id"] in copy.name
    assert (about["procedure"], about["incident"], about["apply"]) == ("look", "I1", False)
    assert about["parameters"]["settle_seconds"] == 7
    assert not about.keys() & {"started", "finished", "outcome", "process"}
    assert "[the other](/runbook/mend?environment=test)" in notebook["cells"][0]["source"]
    again = "/runbook/look?environment=test&incident=I1&settle_seconds=7"
    assert f"[Open another]({again})" in "".join(cell["source"] for cell in notebook["cells"])
    assert about["carried_out_by"] == f"{again}&apply=true"
    assert set(states(notebook)) == {"pending"}
    assert lab.listed(copy) == ""
    assert lab.ask(f"/api/contents/{copy.relative_to(lab.place.folder)}", "DELETE")[0] == 204


def test_what_is_not_to_be_changed(lab: Lab) -> None:
    _, record = lab.place.run("look", "-e", "test")
    sealed = next((lab.place.folder / "records/test").glob(f"*{record['metadata']['opslib']['id']}.ipynb"))
    name = str(sealed.relative_to(lab.place.folder))
    notebook = {"type": "notebook", "content": record}
    before = sealed.read_bytes()
    open_copy = str(lab.copy("look", environment="test").relative_to(lab.place.folder))
    new = "open a new copy: /runbook/look"
    for path, method, body, said in (
        (name, "PUT", notebook, f"this record is sealed; {new}"),
        (name, "PATCH", {"path": "records/test/other.ipynb"}, f"this record is sealed; {new}"),
        (name, "DELETE", None, f"this record is sealed; {new}"),
        ("records", "DELETE", None, "records keep their name and place"),
        ("records/ledger.jsonl", "DELETE", None, "only working copies are saved among the records"),
        ("records/test/new.ipynb", "PUT", notebook, "only working copies are saved among the records"),
        ("notebooks/look.ipynb", "PUT", notebook, "this is the procedure itself; open a working copy: /runbook/look"),
        ("notebooks/look.ipynb", "DELETE", None, "this is the procedure itself"),
        ("parameters/../notebooks/look.ipynb", "PUT", notebook, "this is the procedure itself"),
        (open_copy, "PUT", {"type": "file", "format": "text", "content": "{}"}, "never as text"),
        (open_copy, "PATCH", {"path": "elsewhere.ipynb"}, "records keep their name and place"),
    ):
        status, answer = lab.ask(f"/api/contents/{path}", method, body)
        assert (status, said in answer) == (403, True), (path, method, status, answer)
    assert sealed.read_bytes() == before
    for path in (name, "notebooks/look.ipynb"):
        assert json.loads(lab.ask(f"/api/contents/{path}?content=0")[1])["writable"] is False


def test_one_kernel_and_no_terminal(lab: Lab) -> None:
    kernels = json.loads(lab.ask("/api/kernelspecs")[1])
    assert list(kernels["kernelspecs"]) == ["python3"]
    assert kernels["kernelspecs"]["python3"]["spec"]["argv"][0] == sys.executable
    assert lab.ask("/api/terminals")[0] == 404


# In a browser


@pytest.fixture(scope="module")
def browser(lab: Lab) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.fail("Chromium is not installed") if os.environ.get("CI") else pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright  # half a second, which is for these tests only

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=OPTIONS, viewport={"width": 1280, "height": 1400}
        )
        context.set_default_timeout(20_000)
        context.pages[0].goto(f"{lab.address}/runbook?token={lab.token}")
        yield context
        context.close()


@dataclass
class Copy:
    """A working copy, open in the browser."""

    page: Any
    file: Path

    def run(self, item: str = "Run All Cells", cell: str = "") -> None:
        """Run cells by the menu, from the one that holds this text."""
        if cell:
            self.page.locator(".jp-Cell", has_text=cell).last.click()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text(item, exact=True).click()

    def until(self, true: Callable[[dict[str, Any]], bool], seconds: float = 15) -> dict[str, Any]:
        """Wait until this is true of the file; give its content."""
        ends = time.monotonic() + seconds
        content: dict[str, Any]
        while not true(content := json.loads(self.file.read_text(encoding="utf-8"))):
            assert time.monotonic() < ends, (content["metadata"]["opslib"], states(content))
            time.sleep(0.1)
        return content

    def says(self, text: str) -> None:
        """Wait until the notebook shows this text."""
        self.page.locator(".jp-Notebook").get_by_text(text).last.wait_for()

    def ready(self) -> None:
        """Wait until the notebook is there and its kernel idle."""
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()

    def quiet(self) -> None:
        """Fail if JupyterLab asks or complains."""
        assert self.page.locator(".jp-Dialog, .Toastify__toast--error").all_inner_texts() == []


@pytest.fixture
def opened(lab: Lab, browser: Any) -> Iterator[Callable[[str], Copy]]:
    pages = []

    def open_copy(link: str) -> Copy:
        page = browser.new_page()
        pages.append(page)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{lab.address}/runbook/{link}")
        page.get_by_role("button", name="Open").click()
        page.wait_for_url("**/lab/tree/**")
        copy = Copy(page, lab.place.folder / urllib.parse.urlsplit(page.url).path.removeprefix("/lab/tree/"))
        copy.ready()
        return copy

    yield open_copy
    for page in pages:
        page.close()


def _sealed(lab: Lab) -> Callable[[dict[str, Any]], bool]:
    ledger = lab.place.folder / "records/ledger.jsonl"
    return lambda record: ledger.exists() and record["metadata"]["opslib"]["id"] in ledger.read_text()


def test_from_the_list_to_a_sealed_record(lab: Lab, browser: Any, opened: Callable[[str], Copy]) -> None:
    page = browser.pages[0]
    outside = []
    browser.on("request", lambda r: outside.append(r.url) if lab.address not in r.url and "://" in r.url else None)
    page.goto(f"{lab.address}/runbook")
    page.get_by_label("Find").fill("look")
    assert page.locator("#procedures li:visible").count() == 1
    page.get_by_role("link", name="Try look").click()
    assert page.get_by_label("Settle seconds").input_value() == "20"

    copy = opened("look?environment=test&settle_seconds=7&reason=an+alert")
    copy.says("settle_seconds = 7")
    copy.run()
    record = copy.until(_sealed(lab))  # by itself, within the time of an autosave
    about = record["metadata"]["opslib"]
    assert (about["outcome"], about["reason"]) == ("planned", "an alert")
    assert about["started"] < about["finished"]
    assert set(states(record)) == {"completed"}
    assert lab.listed(copy.file) == "planned"
    assert lab.place.runbook("verify").stdout == "The records are whole and unaltered.\n"
    assert copy.file.stat().st_mode & 0o777 == 0o600

    shown = copy.page.content()
    for place in (copy.file.read_text(), lab.log.read_text(), shown):
        assert "[JWT_SECRET masked]" in place or place == lab.log.read_text()
        assert "hunter2" not in place

    before = copy.file.read_bytes()
    copy.page.reload()
    copy.ready()
    copy.quiet()
    copy.page.get_by_text("notebook is read-only").wait_for()
    copy.run()
    copy.says("Refused: the run in this copy has ended and its record is closed. Open a new copy: /runbook/look")
    copy.page.keyboard.press("Control+s")
    time.sleep(6)  # an autosave would have come by now
    copy.quiet()
    assert copy.file.read_bytes() == before
    assert outside == []


def test_approval_by_the_panel(lab: Lab, opened: Callable[[str], Copy]) -> None:
    mark = lab.place.folder / "app/mark"
    copy = opened("mend?environment=strict&apply=true")
    copy.run()
    copy.says("NotApproved: plan")
    field, button = copy.page.get_by_label("Type strict to approve"), copy.page.get_by_role("button", name="Approve")
    field.fill("test")
    button.click()
    copy.says("Not approved: found 'test', expected 'strict'.")
    copy.run("Run Selected Cell", "run.apply(change)")
    copy.says("NotApproved: plan")
    assert not mark.exists()
    copy.until(lambda record: "started" in record["metadata"]["opslib"])
    copy.page.reload()
    copy.ready()
    field.fill("strict")
    button.click()
    copy.says("Approved by ")
    copy.run("Run Selected Cell and All Below", "run.apply(change)")
    record = copy.until(_sealed(lab))
    assert mark.read_text() == "x"
    assert record["metadata"]["opslib"]["outcome"] == lab.listed(copy.file) == "applied"
    end = record["cells"][-1]["outputs"][0]["metadata"]["opslib"]
    assert [one.get("approved") for one in end["steps"] if one["step"] == "plan"][-1] is True
    assert "widget-view" not in copy.file.read_text()
    copy.quiet()
    mark.unlink()


def test_a_person_answers_in_a_form(lab: Lab, opened: Callable[[str], Copy]) -> None:
    copy = opened("answer?environment=test")
    copy.run()
    copy.says("CheckFailed: not so: The login is known")
    field, button = copy.page.get_by_placeholder("file:~/login"), copy.page.get_by_role("button", name="Take these")
    field.fill("postgresql://somebody")
    button.click()
    copy.says("Not taken: login says where it is")
    field.fill("file:~/mine")
    button.click()
    copy.says("a person gave 1 of 2")
    copy.run("Run Selected Cell and All Below", "run.check(")
    record = copy.until(_sealed(lab))
    assert record["metadata"]["opslib"]["outcome"] == "planned"
    steps = [one for cell in record["cells"] for o in cell.get("outputs", []) if (one := o["metadata"].get("opslib"))]
    (known,) = (one for one in steps if one["title"] == "The login is known" and one["ok"])
    assert "file:~/mine" in json.dumps(known)
    copy.quiet()


def test_a_plan_ends_with_the_way_to_carry_it_out(lab: Lab, opened: Callable[[str], Copy]) -> None:
    copy = opened("mend?environment=strict&reason=drill")
    copy.run()
    link = copy.page.get_by_role("link", name="Open a copy that carries this plan out")
    link.wait_for()
    plan = next(one for one in records.steps(copy.until(_sealed(lab))) if one["step"] == "plan")
    to = f"/runbook/mend?environment=strict&reason=drill&apply=true&approval={plan['digest'][:16]}"
    assert str(link.get_attribute("href")).endswith(to)
    copy.quiet()


def test_a_check_is_mended_and_cells_run_again(lab: Lab, opened: Callable[[str], Copy]) -> None:
    sick, mark = lab.place.folder / "app/sick", lab.place.folder / "app/mark"
    sick.touch()
    copy = opened("mend?environment=test&apply=true")
    copy.run()
    copy.says("CheckFailed: not so: Not sick. Remove app/sick.")
    copy.page.keyboard.press("Control+s")
    record = copy.until(lambda record: "failed" in states(record))
    assert states(record)[3:] == ["failed", "pending", "pending", "pending", "pending"]
    assert lab.listed(copy.file) == "running"
    copy.run("Run Selected Cell", "run.apply(change)")
    copy.says("NameError")
    sick.unlink()
    copy.run("Run Selected Cell", "run.check(")
    copy.run("Run Selected Cell", "run.plan(change)")
    for _ in range(2):
        copy.run("Run Selected Cell", "run.apply(change)")
    copy.says("not done a second time")
    copy.run("Run Selected Cell", "run = start(")
    copy.says("this run goes on")
    copy.run("Run Selected Cell and All Below", "run.verify(")
    record = copy.until(_sealed(lab))
    assert mark.read_text() == "x"
    assert record["metadata"]["opslib"]["outcome"] == "applied"
    mark.unlink()


def test_kernel_killed(lab: Lab, opened: Callable[[str], Copy]) -> None:
    copy = opened("hang?environment=test")
    copy.run()
    record = copy.until(lambda record: "process" in record["metadata"]["opslib"])
    assert lab.listed(copy.file) == "running"
    os.kill(record["metadata"]["opslib"]["process"]["pid"], signal.SIGKILL)
    copy.page.get_by_text("appears to have died").wait_for()
    assert lab.listed(copy.file) == "interrupted"
    assert not _sealed(lab)(record)
    assert lab.place.runbook("verify").returncode == 0


def test_page_loaded_anew_while_cells_run(lab: Lab, opened: Callable[[str], Copy]) -> None:
    copy = opened("wait?environment=test")
    copy.run()
    copy.says("Not sick")
    copy.page.reload()
    copy.ready()
    copy.run("Run Selected Cell", "run.finish()")
    record = copy.until(_sealed(lab))  # what the page has missed is in the last step
    assert record["metadata"]["opslib"]["outcome"] == "planned"
    end = next(
        output for cell in record["cells"] for output in cell.get("outputs", ()) if "opslib" in output["metadata"]
    )
    assert [one["step"] for one in end["metadata"]["opslib"]["steps"]] == ["start", "check", "end"]


def test_a_page_that_went_away_is_no_error_and_anything_else_is(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    try:
        for error in (WebSocketClosedError(), ValueError("else")):
            lab_server._report(loop, {"message": "Task exception was never retrieved", "exception": error})
    finally:
        loop.close()
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["else"]
