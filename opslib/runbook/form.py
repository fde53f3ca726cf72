"""The pages that lead into JupyterLab: the procedures, and the parameters of one as a form."""

import json
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from itertools import islice
from urllib.parse import quote

from jupyter_server.base.handlers import JupyterHandler
from jupyterlab.commands import get_workspaces_dir
from jupyterlab_server.workspaces_handler import WorkspacesManager
from tornado.web import authenticated

from opslib.runbook import environment as environments, listing, procedure as procedures, runner, working_copy
from opslib.runbook.errors import BadParameter, Refused, RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import Parameter, Procedure

RECENT = 8
LAYOUT = {
    "left": {"collapsed": False, "visible": True, "current": "@jupyterlab/toc:plugin", "widgets": ["filebrowser"]},
    "relativeSizes": [0.24, 0.76, 0],
}
"""How JupyterLab opens."""

_ORDER = {"environment": 0, "apply": 2, "reason": 3, "incident": 4, "approval": 5}
"""Where a parameter stands in the form; what belongs to the procedure alone comes second, in its own order."""

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#bbb, #555); --quiet: light-dark(#555, #aaa);
  --bad: light-dark(#a40000, #ff9c9c); --act: light-dark(#0b57d0, #8ab4f8); }}
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ line-height: 1.2; margin: .5rem 0; }} h2 {{ margin-top: 2.5rem; }}
a {{ color: var(--act); }} small, .help {{ color: var(--quiet); font-size: .9rem; }}
ul {{ list-style: none; padding: 0; }} li {{ padding: .6rem 0; border-top: 1px solid var(--line); }}
li a {{ font-weight: 600; }}
input, select, button {{ font: inherit; padding: .4rem .6rem; }}
.field {{ border: 0; padding: 0; margin: .7rem 0; display: grid; grid-template-columns: 11rem 1fr; gap: 0 1rem; }}
.field > label, .field > b {{ font-weight: 600; padding-top: .4rem; overflow-wrap: anywhere; }}
input:not([type=radio], [type=checkbox]), select {{ width: 100%; box-sizing: border-box; }}
input[type=checkbox] {{ margin: .8rem 0 0; }} .choice {{ display: block; padding: .4rem 0; }}
.error {{ color: var(--bad); font-weight: 600; }}
@media (max-width: 40rem) {{ .field {{ grid-template-columns: 1fr; }} }}
[aria-invalid] {{ outline: 2px solid var(--bad); }}
button {{ background: var(--act); color: light-dark(#fff, #000); border: 0; border-radius: 6px; padding: .7rem 1.6rem;
  font-weight: 600; cursor: pointer; }}
.open {{ position: sticky; bottom: 0; margin: 0; padding: .8rem 0; background: Canvas; }}
table {{ border-collapse: collapse; width: 100%; }} td {{ padding: .3rem .8rem .3rem 0; }}
</style>
<main>
{body}
</main>
</html>
"""

_FILTER = """\
<p><label for="filter">Find</label> <input id="filter" type="search" autofocus placeholder="restart, backup, key …"></p>
<script>
document.getElementById("filter").addEventListener("input", event => {
  for (const row of document.querySelectorAll("#procedures li"))
    row.hidden = !event.target.value.toLowerCase().split(/\\s+/).every(w => row.textContent.toLowerCase().includes(w));
});
</script>
"""


class Procedures(JupyterHandler):
    """The list of procedures, and what was run last."""

    @authenticated
    def get(self) -> None:
        """Show it."""
        rows = []
        for name in procedures.names():
            try:
                one = procedures.load(name)
                title, summary = one.title, one.summary
            except Refused as error:
                title, summary = name, f"cannot be opened: {error}"
            rows.append(
                f'<li><a href="{self.base_url}runbook/{quote(name)}">{escape(title)}</a> <small>{escape(name)}</small>'
                f"<br>{escape(summary)}</li>"
            )
        body = f"<h1>Procedures</h1>\n{_FILTER}<ul id=procedures>\n" + "\n".join(rows) + "\n</ul>\n"
        self.finish(_page("Procedures", body + _recent(self.base_url)))


class Form(JupyterHandler):
    """The parameters of one procedure, as a form that opens a working copy."""

    @authenticated
    def get(self, name: str) -> None:
        """Show the form, filled in from the query string."""
        if one := self._load(name):
            asked = {key: self.get_query_argument(key) for key in self.request.query_arguments if key != "token"}
            given = _meant(one, asked)
            self.finish(_form(self, one, given, _errors(one, given)))

    @authenticated
    def post(self, name: str) -> None:
        """Make the working copy and go there; show the form again, with what is wrong, if it cannot be made."""
        one = self._load(name)
        if one is None:
            return
        given = {key: self.get_body_argument(key) for key in self.request.body_arguments if key != "_xsrf"}
        unticked = {key: "false" for key, p in one.parameters.items() if p.type is bool and key not in given}
        errors = _errors(one, given)
        try:
            if not errors:
                file = working_copy.make(one, given | unticked, base=self.base_url)
                at = file.relative_to(procedures.root()).as_posix()
                _lay_out()
                self.redirect(f"{self.base_url}lab/tree/{quote(at)}", status=303)
                return
        except RunbookError as error:
            errors[""] = str(error)
        self.set_status(400)
        self.finish(_form(self, one, given, errors))

    def _load(self, name: str) -> Procedure | None:
        try:
            return procedures.load(name)
        except Refused as error:
            self.set_status(404)
            back = f'<p><a href="{self.base_url}runbook">All procedures</a></p>'
            self.finish(_page("No such procedure", f'{back}<p class="error" role="alert">{escape(str(error))}</p>'))
            return None


def handlers(base: str) -> list[tuple[str, type[JupyterHandler]]]:
    """The addresses, and who answers there."""
    return [(rf"{base}runbook/?", Procedures), (rf"{base}runbook/(\w+)", Form)]


def _lay_out() -> None:
    """Have JupyterLab open with this copy alone, so that nobody runs an earlier one by mistake, and headings beside it.

    It leaves a person at the last cell even if the first has failed; a sign beside the headings says where to look.
    """
    state = {"data": {"layout-restorer:data": LAYOUT}, "metadata": {"id": "default"}}
    WorkspacesManager(get_workspaces_dir()).save("default", json.dumps(state))


def _page(title: str, body: str) -> str:
    return _PAGE.format(title=escape(title), body=body)


def _recent(base: str) -> str:
    rows = [
        f"<tr><td>{escape(one.started[:16].replace('T', ' '))}<td>{escape(one.environment)}"
        f'<td><a href="{base}lab/tree/{quote(one.path.relative_to(procedures.root()).as_posix())}">'
        f"{escape(one.procedure or one.path.name)}</a><td>{escape(one.outcome)}<td>{escape(one.operator)}"
        for one in islice(listing.records(), RECENT)
    ]
    return f"<h2>Last runs</h2>\n<table>{''.join(rows)}</table>\n<small>Times are UTC.</small>" if rows else ""


def _meant(procedure: Procedure, given: Mapping[str, str]) -> dict[str, str]:
    """Give what was asked for, with the environment that is meant; an empty one where that has to be chosen."""
    try:
        return {key: str(value) for key, value in runner.meant(procedure, given).items()}
    except Refused:
        return {**given, "environment": ""}


def _errors(procedure: Procedure, given: Mapping[str, str]) -> dict[str, str]:
    """Say what is wrong with each value; under the empty name what belongs to no field."""
    errors = {}
    for name, value in given.items():
        try:
            if name in procedure.parameters:
                procedure.parameters[name].accept(value)
            else:
                procedure.bind({name: value})
        except BadParameter as error:
            errors[name if name in procedure.parameters else ""] = str(error)
    if "environment" in procedure.parameters and "environment" not in errors:
        try:
            environments.load(str(runner.meant(procedure, given)["environment"]), new=procedure.describes)
        except Refused as error:
            errors["environment"] = str(error)
    return errors


def _form(handler: JupyterHandler, one: Procedure, given: Mapping[str, str], errors: Mapping[str, str]) -> str:
    declared = dict(one.parameters)
    if "environment" in declared and not one.describes:
        declared["environment"] = replace(declared["environment"], choices=tuple(environments.names()))
    fields = "\n".join(
        _field(p, mask.text(given.get(p.name, str(p.default))), errors.get(p.name, ""))
        for p in sorted(declared.values(), key=lambda p: _ORDER.get(p.name, 1))
    )
    other = f'<p class="error" role="alert">{escape(errors[""])}</p>' if "" in errors else ""
    body = f"""<p><a href="{handler.base_url}runbook">All procedures</a></p>
<h1>{escape(one.title)}</h1>
<p>{escape(one.summary)}</p>
{other}
<form method="post" action="{handler.base_url}runbook/{quote(one.name)}">
{handler.xsrf_form_html()}
{fields}
<p class="open"><button>Open</button>
<span class="help">a working copy in JupyterLab; nothing runs before you run its cells</span></p>
</form>"""
    return _page(one.title, body)


def _field(parameter: Parameter, value: str, error: str) -> str:
    name = parameter.name
    if name == "apply":
        return _mode(value.lower() == "true")
    marks = f'id="{name}" name="{name}" aria-describedby="{name}-help"'
    about = f'<div class="help" id="{name}-help">{escape(parameter.help)}'
    if error:
        marks += ' aria-invalid="true"'
        about += f'<div class="error" role="alert">{escape(error)}</div>'
    entry = _entry(parameter, value, marks)
    return f'<div class="field"><label for="{name}">{_label(name)}</label><div>{entry}{about}</div></div></div>'


def _entry(parameter: Parameter, value: str, marks: str) -> str:
    if parameter.type is bool:
        return f'<input type="checkbox" value="true" {marks}{" checked" if value.lower() == "true" else ""}>'
    if choices := parameter.choices:
        # A value that is not among them is still shown, beside its error, and never silently replaced by another one.
        known = choices if value in choices else (value, *choices)
        options = [f"<option{' selected' if one == value else ''}>{escape(one)}</option>" for one in known]
        return f"<select {marks}>{''.join(options)}</select>"
    if parameter.type is str:
        return f'<input type="text" value="{escape(value)}" {marks} autocomplete="off">'
    step = "1" if parameter.type is int else "any"
    limits = {"min": parameter.low, "max": parameter.high}
    bounds = "".join(f' {key}="{limit:g}"' for key, limit in limits.items() if limit is not None)
    return f'<input type="number" step="{step}"{bounds} value="{escape(value)}" {marks}>'


def _mode(apply: bool) -> str:
    plan, act = ("", " checked") if apply else (" checked", "")
    return f"""<div class="field" role="radiogroup" aria-labelledby="mode"><b id="mode">What to do</b><div>
<label class="choice"><input type="radio" name="apply" value="false"{plan}> Show the plan, change nothing</label>
<label class="choice"><input type="radio" name="apply" value="true"{act}> Show the plan and carry it out</label>
</div></div>"""


def _label(name: str) -> str:
    return escape(name.replace("_", " ").capitalize())
