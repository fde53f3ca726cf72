"""An act: one statement, command or call of a change, shown as it runs, because both are made from one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opslib.runbook import program as programs

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed


@dataclass(frozen=True)
class Act:
    """What a person reads of it, a line or several, and what runs."""

    shown: str
    run: Callable[[], object] = field(repr=False, compare=False)


@dataclass(frozen=True, repr=False)
class Later:
    """A value that is only there when the act runs (a secret that the act before it makes), and its name until then."""

    name: str
    read: Callable[[], Any]

    def __repr__(self) -> str:
        return f"‹{self.name}›"


def act(*shown: str, run: Callable[[], object]) -> Act:
    """Make an act of a function, in lines of its own: where none of the others fits."""
    return Act("\n".join(shown), run)


def call(name: str, method: Callable[..., object], *given: Any, **named: Any) -> Act:
    """Make an act of one call of a library's: `name` is what people call the method, whose arguments may be Later."""
    arguments = [repr(value) for value in given] + [f"{key}={value!r}" for key, value in named.items()]
    return Act(
        f"{name}({', '.join(arguments)})",
        lambda: method(*map(_read, given), **{key: _read(value) for key, value in named.items()}),
    )


def program(command: Sequence[str], variables: Mapping[str, str], *, seconds: float = 60) -> Act:
    """Make an act of one command, with these environment variables, that must end well within so many seconds."""
    return Act(programs.shown(command), lambda: programs.run(command, env=variables, seconds=seconds))


def sql(connect: Callable[[], Connection[Any]], *statements: str, **names: Any) -> Act:
    """Make an act of one statement, for which `connect` gives an open connection that it closes afterwards.

    Several run one after the other over that connection, as settings do with what they are for. `{name}` in a statement
    becomes an identifier of that value, quoted; what psycopg has composed (a Literal, say) goes in as it is, and a
    Later as a literal unless psycopg has composed what it reads.
    """
    return Act(
        "\n".join(composed(statement, names).as_string() for statement in statements),
        lambda: _execute(connect, [composed(statement, names, read=True) for statement in statements]),
    )


def composed(statement: str, names: Mapping[str, Any], *, read: bool = False) -> Composed:
    """Give a statement with these names in it; of a Later its name, or once it is `read` its value."""
    from psycopg.sql import SQL, Composable, Identifier, Literal

    def part(value: Any) -> Composable:
        if isinstance(value, Later):
            if not read:
                return SQL(repr(value))
            found = value.read()
            return found if isinstance(found, Composable) else Literal(found)
        return value if isinstance(value, Composable) else Identifier(value)

    return SQL(statement).format(**{key: part(value) for key, value in names.items()})


def _execute(connect: Callable[[], Connection[Any]], statements: Sequence[Composed]) -> None:
    with connect() as connection:
        for statement in statements:
            connection.execute(statement)


def _read(value: Any) -> Any:
    return value.read() if isinstance(value, Later) else value
