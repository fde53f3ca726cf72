"""A question to the person who steps through a notebook: a form below its cell. Nothing waits for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets as widgets
from IPython.display import display

from opslib.runbook import session
from opslib.runbook.errors import RunbookError
from opslib.runbook.step import Display, step

NEXT = "Taken. Select the next cell, then Run > Run Selected Cell and All Below."


@dataclass(frozen=True)
class Question:
    """What is asked for, with its name in the answers and how an answer may look."""

    name: str
    what: str
    example: str


def ask(title: str, questions: Sequence[Question], fits: Callable[[dict[str, str]], object]) -> dict[str, str]:
    """Show a form of these questions; give the answers, which are none until a person has sent it.

    `fits` raises RunbookError for answers that do not fit. Outside of a working copy nobody is asked.
    """
    answers: dict[str, str] = {}
    if session.copy() is None or not questions:
        return answers
    fields = {
        one.name: widgets.Text(placeholder=one.example, continuous_update=False, layout={"width": "40rem"})
        for one in questions
    }
    said = {one.name: widgets.HTML(f"<b>{escape(one.name)}</b><br>{escape(one.what)}") for one in questions}
    button, line, below = (
        widgets.Button(description="Take these answers", button_style="primary"),
        Display(),
        widgets.Label(),
    )

    def take(_: object) -> None:
        given = {name: field.value.strip() for name, field in fields.items() if field.value.strip()}
        try:
            fits(given)
        except RunbookError as error:
            below.value = f"Not taken: {error}"
            return
        answers.clear()
        answers.update(given)
        line.show(step("note", title, note=f"a person gave {len(given)} of {len(fields)}"))
        below.value = NEXT

    line.show(step("note", title, note=f"{len(fields)} answers are asked for below"))
    button.on_click(take)
    rows = [widget for name, field in fields.items() for widget in (said[name], field)]
    display(widgets.VBox([*rows, button, below]))
    return answers
