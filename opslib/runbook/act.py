"""An act: one statement, command or call of a change, shown as it runs, because both are made from one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed


@dataclass(frozen=True)
class Act:
    """What a person reads of it, a line or several, and what runs."""

    shown: str
    run: Callable[[], object] = field(repr=False, compare=False)


def act(*shown: str, run: Callable[[], object]) -> Act:
    """Make an act of a function, in lines of its own: where none of the others fits."""
    return Act("\n".join(shown), run)


def sql(connect: Callable[[], Connection[Any]], statement: str, **names: Any) -> Act:
    """Make an act of one statement, for which `connect` gives an open connection that it closes afterwards.

    `{name}` in the statement becomes an identifier of that value, quoted; a value that psycopg has composed (a Literal,
    say) goes in as it is.
    """
    whole = composed(statement, names)
    return Act(whole.as_string(), lambda: _execute(connect, whole))


def composed(statement: str, names: Mapping[str, Any]) -> Composed:
    """Give a statement with these names in it: identifiers, unless psycopg has composed them."""
    from psycopg.sql import SQL, Composable, Identifier

    parts = {key: value if isinstance(value, Composable) else Identifier(value) for key, value in names.items()}
    return SQL(statement).format(**parts)


def _execute(connect: Callable[[], Connection[Any]], statement: Composed) -> None:
    with connect() as connection:
        connection.execute(statement)
