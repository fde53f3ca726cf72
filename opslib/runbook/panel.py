"""The panel in which a person approves a plan, below the table that shows it. Nothing waits for it."""

from collections.abc import Callable

import ipywidgets as widgets
from IPython.display import display

from opslib.runbook.environment import Environment
from opslib.runbook.errors import RunbookError
from opslib.runbook.step import Display, Step, step

NEXT = "Select the next cell, then Run > Run Selected Cell and All Below."


def ask(environment: Environment, digest: str, give: Callable[[str], Step]) -> None:
    """Show the panel for this plan; typing the environment's name into it approves, which `give` carries out."""
    asked = step("plan", f"Plan {digest} needs your approval", None, digest=digest, changes=[])
    asked["note"] = f"it changes {environment.title}; nothing is changed before"
    line = Display()
    line.show(asked)
    name = widgets.Text(
        description=f"Type {environment.name} to approve:",
        style={"description_width": "initial"},
        layout={"width": "28rem"},
    )
    button = widgets.Button(description="Approve this plan", button_style="warning")
    said = widgets.Label()
    panel = widgets.VBox([widgets.HBox([name, button]), said])

    def approve(_: object) -> None:
        typed = name.value.strip()
        if typed != environment.name:
            said.value = f"Not approved: found {typed!r}, expected {environment.name!r}."
            return
        try:
            approved = give(digest)
        except RunbookError as error:
            said.value = f"Not approved: {error}"
            return
        line.show(approved)
        name.disabled = button.disabled = True
        said.value = f"Approved {approved['note']} at {approved['at']}. {NEXT}"

    button.on_click(approve)
    display(panel)
