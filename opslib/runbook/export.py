"""A record as one HTML file, to read, print or send: it asks nothing of the network."""

import re
from collections.abc import Iterable
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from bleach.sanitizer import Cleaner
from nbconvert.exporters import HTMLExporter
from nbformat import reads
from pygments.formatters import HtmlFormatter

from opslib.runbook import ledger, listing, record
from opslib.runbook.errors import Outcome, Refused
from opslib.runbook.step import Step, accepted, findings, line, standing
from opslib.runbook.table import Rows

MEANINGS: dict[str, str] = {
    Outcome.PLANNED: "Planned: it only showed what it would do, and changed nothing.",
    Outcome.APPLIED: "Applied: every change was made, and every check held.",
    Outcome.FAILED: "Failed: a check or a cell failed; nothing was changed.",
    Outcome.UNDONE: "Undone: a change failed, and what had been changed was put back.",
    Outcome.NEEDS_PERSON: "Needs a person: something is changed, and neither verified nor undone.",
    Outcome.REFUSED: "Refused: it was not allowed to start, or to go on.",
    Outcome.INTERRUPTED: "Interrupted: it was stopped before its end.",
    "running": "Running: it has not ended yet.",
    "not started": "A working copy: it was never started.",
}

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?:[^)\s]*/runbook/)?(?P<name>\w+)(?:\.ipynb|\?)[^)]*\)")
_TAGS = {"a", "b", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img"}
_TAGS |= {"li", "ol", "p", "pre", "small", "span", "strong", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"}
"""What may stand in a record's page; of an image only one that is in the record itself."""
_STYLE = """\
:root { --line: #ccc; --quiet: #555; --good: #0a6b2d; --bad: #a40000; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; }
.quiet { color: var(--quiet); } .bad { color: var(--bad); } .good { color: var(--good); }
.outcome { font-size: 1.2rem; font-weight: 600; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } th, td { text-align: left; vertical-align: top;
  padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { white-space: nowrap; } thead th { border-bottom: 2px solid var(--line); } .time { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: 13px/1.45 ui-monospace, monospace; }
.code_cell { margin: 1.2rem 0; } .input_area { background: #f6f6f6; border-left: 3px solid var(--line);
  padding: .5rem .75rem; } .prompt { font-size: .75rem; color: var(--quiet); } .output_prompt { display: none; }
.output_area { padding: .4rem 0 0 .9rem; } .output_subarea > p:first-child, .rendered_html > p { margin: .3rem 0; }
.output_error pre { color: var(--bad); } .input { break-inside: avoid; } tr { break-inside: avoid; }
img { max-width: 100%; } a.anchor-link { display: none; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } }
"""

_BEGINS = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
"""
"""How each page begins, by which one is told from a file of somebody else's."""


def html(file: Path) -> Path:
    """Render a record beside it, for this user only; give the file.

    Raise Refused if it is no record that can be read, or if the page's name is that of a file which is no such page.
    """
    about = record.head(file)
    if not about:
        raise Refused(f"{file}: found no record that can be read; `runbook records` lists those there are")
    to = file.with_suffix(".html")
    if to.exists() and not to.read_bytes().startswith(_BEGINS.encode()):
        raise Refused(f"{to}: found a file that is no page of a record, and would be lost. Move it away first.")
    notebook = reads(file.read_text(encoding="utf-8"), as_version=4)
    title = f"{about['title']} — {about['environment']}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _summary(file, about, record.steps(notebook)),
            '<h2>Timeline <small class="quiet">UTC</small></h2>',
            _timeline(record.steps(notebook)),
            "<h2>The notebook</h2>",
            _notebook(notebook),
        ]
    )
    style = _STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")  # type: ignore[no-untyped-call]
    page = f"""{_BEGINS}<title>{escape(title)}</title>
<style>
{style}
</style></head>
<body>
{body}
</body>
</html>
"""
    record.save(to, page.encode("utf-8", "backslashreplace"), durable=False)
    return to


def _summary(file: Path, about: dict[str, Any], steps: list[Step]) -> str:
    one = listing.summary(file)
    state = one.outcome if one else "not started"
    found, gone_on = findings(steps), accepted(steps)
    ended_well = state in (Outcome.PLANNED, Outcome.APPLIED)
    means = MEANINGS.get(state, state)
    if gone_on and state == Outcome.APPLIED:
        means = "Applied: every change was made, and the operator went on with an answer that was not yes."
    if found and ended_well:
        means += " It found something wrong."
    good = ended_well and not found and not gone_on
    rows = {
        "Procedure": f"{about['procedure']} ({'carries its plan out' if about.get('apply') else 'plan only'})",
        "Environment": about["environment"],
        "Why it ended so": about.get("why"),
        "Found wrong": "; ".join(f"{one['title']} ({one['note']})" for one in found),
        "Accepted all the same": "; ".join(gone_on),
        "Changed, not undone": "" if ended_well or state == Outcome.FAILED else "; ".join(standing(steps)),
        "Approved": "; ".join(one["note"] for one in steps if one["step"] == "plan" and one.get("approved")),
        "Operator": about.get("operator"),
        "Reason": about.get("reason"),
        "Incident": about.get("incident"),
        "Started": _time(about.get("started")),
        "Finished": _time(about.get("finished")),
        "Took": _duration(about.get("started"), about.get("finished")),
        "Parameters": ", ".join(f"{key} = {value!r}" for key, value in about.get("parameters", {}).items()),
        "Commit": about.get("commit"),
        "Record": file.name,
        "Seal": _seal(file),
    }
    shown = "".join(f"<tr><th>{escape(key)}<td>{escape(str(value))}" for key, value in rows.items() if value)
    return f'<p class="outcome {"good" if good else "bad"}">{escape(means)}</p>\n<table>{shown}</table>'


def _seal(file: Path) -> str:
    wrong = ledger.problems([file])
    if wrong:
        return f"NOT INTACT: {'; '.join(wrong)}"
    return "sealed, and unaltered since" if ledger.is_sealed(file) else "not sealed: it is not finished"


def _timeline(steps: Iterable[Step]) -> str:
    rows = []
    for one in steps:
        mark = {True: "good", False: "bad", None: "quiet"}[one["ok"]]
        rows.append(
            f'<tr><td class="time">{escape(one["at"][11:19])}<td class="time">{escape(one["step"])}'
            f'<td class="{mark}">{escape(line(one))}{_evidence(one.get("changes", []))}'
        )
    return f"<table>{''.join(rows)}</table>" if rows else "<p>No step was taken.</p>"


def _evidence(rows: Rows) -> str:
    lines = [f"<br><span class=quiet>{escape(row['change'])}: {_said(row['does'])}</span>" for row in rows]
    return "".join(lines)


def _notebook(notebook: Any) -> str:
    tagged = ((cell, cell.metadata.get("tags", ())) for cell in notebook.cells if cell.source.strip())
    notebook.cells = [cell for cell, tags in tagged if "added-by-lab" not in tags]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # Where the reader is, no link leads to a procedure; its name does.
            cell.source = _LINK.sub(r"*\g<text>* (`\g<name>`)", cell.source)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    clean: str = Cleaner(tags=_TAGS, attributes=_allowed, protocols=("http", "https", "data"), strip=True).clean(body)
    return clean


def _allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img":
        return name == "alt" or (name == "src" and value.startswith("data:image/"))
    return name in ("class", "id", "colspan", "rowspan") or (tag == "a" and name == "href")


def _time(text: str | None) -> str:
    return f"{text[:19].replace('T', ' ')} UTC" if text else ""


def _duration(started: str | None, finished: str | None) -> str:
    if not started or not finished:
        return ""
    return f"{(datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds():.1f} s"


def _said(does: str | list[str]) -> str:
    """What a change does, line by line; records of before it was acts have one text."""
    return "<br>".join(map(escape, [does] if isinstance(does, str) else does))
