"""A proposal: an index that would spare a slow statement from reading a table end to end, and what it gains.

Read from the generic plan that PostgreSQL makes for the normalised statement, without running it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from opslib.database import role, statement_plan
from opslib.database.index import Index
from opslib.database.postgres import Connection
from opslib.database.statement import Statement
from opslib.runbook.answer import Answer

BIG = 10_000
"""Rows from which on reading a table end to end is worth a thought: pghero's figure."""
MOST_OF_IT = 0.2
"""Share of a table from which on PostgreSQL reads all of it, index or not."""

_NAME = r"(?:(?:\w+|\"[^\"]+\")\.)?(?P<column>\w+|\"[^\"]+\")"
_TERM = re.compile(
    rf"\(?{_NAME}\)?(?:::(?P<cast>[a-z ]+))? (?:(?P<operator>=|<=|>=|<|>) (?P<other>.+)|(?P<null>IS NULL))"
)
_SORTED = re.compile(rf"{_NAME}(?P<order> DESC)?")
# A Result comes of a condition on no table, as the `1=1` that Prisma begins each WHERE with.
_THROUGH = ("Sort", "Limit", "Gather", "Gather Merge", "Incremental Sort", "Result")

_TABLE: LiteralString = """
SELECT c.reltuples::bigint AS rows, ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
  AND NOT attisdropped) AS columns, coalesce((SELECT jsonb_object_agg(attname, CASE WHEN n_distinct < 0
  THEN -n_distinct * c.reltuples ELSE n_distinct END) FROM pg_stats WHERE schemaname = n.nspname
  AND tablename = c.relname), '{}') AS distinct
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE n.nspname = %s AND c.relname = %s"""


@dataclass(frozen=True)
class Proposal:
    """An index on these columns for this statement; `parameters` says which `$n` is compared to which column."""

    schema: str
    table: str
    columns: tuple[str, ...]
    descending: tuple[bool, ...]
    statement: Statement
    reason: str
    parameters: dict[str, str]

    @property
    def name(self) -> str:
        """The name that Prisma would give it, so that a migration can take it over."""
        return "_".join((self.table, *self.columns, "idx"))[: role.LONGEST]

    @property
    def create(self) -> sql.Composed:
        """The statement that makes it beside the work that goes on."""
        columns = (
            sql.SQL("{}{}").format(sql.Identifier(column), sql.SQL(" DESC" if down else ""))
            for column, down in zip(self.columns, self.descending, strict=True)
        )
        names = (sql.Identifier(self.name), sql.Identifier(self.schema, self.table), sql.SQL(", ").join(columns))
        return sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} ({})").format(*names)

    def row(self) -> dict[str, str]:
        """A row of evidence, with the advice."""
        gain = f"{self.statement.calls} calls of {self.statement.mean:.1f} ms"
        return {"index": self.name, "why": self.reason, "for": gain, "advice": f"{self.create.as_string(None)};"}


def proposals(
    connection: Connection, statements: Sequence[Statement], indexes: Sequence[Index], *, schema: str
) -> list[Proposal]:
    """Propose indexes for these statements, the dearest first; none that is there already."""
    found: dict[str, Proposal] = {}
    for one in statements:
        for proposal in _of(connection, one, schema):
            there = any(
                index.valid
                and (index.schema, index.table) == (proposal.schema, proposal.table)
                and not index.only
                and tuple(index.columns[: len(proposal.columns)]) == proposal.columns
                for index in indexes
            )
            # Of two statements for one index the one that can be tried.
            if not there and (proposal.name not in found or not found[proposal.name].statement.reads):
                found[proposal.name] = proposal
    longer = [(one.table, one.columns[:length]) for one in found.values() for length in range(1, len(one.columns))]
    return [one for one in found.values() if (one.table, one.columns) not in longer]


def known(chosen: Sequence[Proposal], indexes: Sequence[Index], name: str) -> Answer:
    """Whether there is an index to build, or the one of this name is there already."""
    there = [{"index": one.name, "why": "it is there already"} for one in indexes if one.valid and one.name == name]
    otherwise = "Take a name from the findings of tune_queries, as it stands there."
    return Answer(bool(chosen or there), [one.row() for one in chosen] or there, otherwise)


def uses(connection: Connection, one: Proposal, schema: str) -> bool:
    """Whether PostgreSQL would use the index for the statement."""
    tree = statement_plan.plan(connection, one.statement.query, schema)
    return tree is not None and any(node.get("Index Name") == one.name for node, _ in statement_plan.nodes(tree))


def _of(connection: Connection, statement: Statement, schema: str) -> Iterator[Proposal]:
    tree = statement_plan.plan(connection, statement.query, schema)
    for node, above in statement_plan.nodes(tree) if tree else ():
        if node["Node Type"] != "Seq Scan":
            continue
        table = connection.execute(_TABLE, [node["Schema"], node["Relation Name"]]).fetchone()
        if table and table["rows"] >= BIG and (found := _columns(node, above, table)):
            columns, descending, parameters, reason = found
            names = (node["Schema"], node["Relation Name"])
            yield Proposal(*names, columns, descending, statement, reason, parameters)


def _columns(
    node: dict[str, Any], above: Sequence[dict[str, Any]], table: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[bool, ...], dict[str, str], str] | None:
    """Give the columns of the index: those that must be equal, the most distinct first, then the order or a range."""
    equal: set[str] = set()
    ranged: list[str] = []
    parameters: dict[str, str] = {}
    for term in filter(None, map(_TERM.fullmatch, _terms(node.get("Filter", "")))):
        column, other = term["column"].strip('"'), re.sub("'[^']*'", "''", term["other"] or "")
        # Behind a cast it is another expression, but for the one from varchar to text that PostgreSQL adds itself.
        if column not in table["columns"] or term["cast"] not in (None, "text") or f"{node['Alias']}." in other:
            continue
        if number := re.search(r"\$\d+", other):
            parameters[number[0]] = column
        if term["null"] or term["operator"] == "=":
            equal.add(column)
        else:
            ranged.append(column)
    ranged = [column for column in dict.fromkeys(ranged) if column not in equal]
    columns = sorted(equal, key=lambda name: (-float(table["distinct"].get(name, 0)), name))
    order = _order(above, table["columns"], columns)
    down = [False] * len(columns)
    if order and not ranged:
        columns, down = [*columns, *(name for name, _ in order)], [*down, *(falls for _, falls in order)]
    elif ranged:
        columns, down = [*columns, *ranged[:1]], [*down, False]
    limited = bool(order) and any(one["Node Type"] == "Limit" for one in above)
    if not columns or (node["Plan Rows"] > MOST_OF_IT * table["rows"] and not limited):
        return None
    said = [f"equal {name}" for name in columns if name in equal] + [f"range of {name}" for name in ranged[:1]]
    if order and not ranged:
        said.append(f"ordered by {', '.join(name for name, _ in order)}")
    reason = f"{node['Relation Name']}: {table['rows']} rows read for {node['Plan Rows']}: {', '.join(said)}"
    return tuple(columns), tuple(down), parameters, reason


def _terms(condition: str) -> list[str]:
    """Split a condition, as EXPLAIN prints it, into what must hold together, each without the brackets around it."""
    parts, depth, quoted, start = [], 0, False, 0
    inner = condition[1:-1]
    for at, letter in enumerate(inner):
        quoted ^= letter == "'"
        depth += 0 if quoted else (letter == "(") - (letter == ")")
        if depth < 0:  # the brackets around it were not one pair: it is a single term
            return [condition]
        if not quoted and depth == 0 and inner.startswith(" AND ", at):
            parts.append(inner[start:at])
            start = at + 5
    parts.append(inner[start:])
    if len(parts) == 1:
        return parts
    return [part[1:-1] if part.startswith("(") and part.endswith(")") else part for part in parts]


def _order(above: Sequence[dict[str, Any]], known: Sequence[str], but: Sequence[str]) -> list[tuple[str, bool]]:
    """Give the columns that a Sort right above the scan orders by and whether they descend; all known, or none."""
    for one in above:
        if one["Node Type"] not in _THROUGH:
            return []
        if keys := one.get("Sort Key"):
            parts = [_SORTED.fullmatch(key) for key in keys]
            found = [(part["column"].strip('"'), bool(part["order"])) for part in parts if part]
            if len(found) < len(keys) or any(name not in known for name, _ in found):
                return []
            found = [(name, down) for name, down in found if name not in but]
            same = len({down for _, down in found}) == 1  # read backwards, an index serves the other direction too
            return [(name, False if same else down) for name, down in found]
    return []
