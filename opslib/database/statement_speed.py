"""The speed of a statement: how long it takes, tried with values of the table itself, before an index and after it.

Only what reads is tried, by the API's own login, in a transaction that may not write. The values are people's data and
never shown.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from opslib.database import admin, database_url, postgres
from opslib.database.index_proposal import Proposal, uses
from opslib.database.postgres import Connection
from opslib.database.statement import shown
from opslib.database.statement_plan import prepared
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

TIMES = 5
TWICE = 2.0
"""An index that makes its statement less than this many times faster is not worth its writes."""
PAGE = 100
"""What LIMIT is tried with."""


@dataclass
class Speed:
    """A statement with values for its parameters; `before` are milliseconds, None where it cannot be tried."""

    url: str = field(repr=False)
    proposal: Proposal
    schema: str
    values: list[Any] | None
    before: float | None

    @classmethod
    def of(cls, environment: Deployment, proposal: Proposal) -> "Speed":
        """Choose values from the table, and try the statement as it is."""
        url = admin.api_url(environment)
        with postgres.connect(url) as connection:
            values = _values(connection, proposal)
        speed = cls(url, proposal, database_url.schema(url), values, None)
        speed.before = speed.milliseconds()
        return speed

    def milliseconds(self) -> float | None:
        """Try the statement a few times; give the median of PostgreSQL's own execution times."""
        query = self.proposal.statement.query
        if self.values is None or not self.proposal.statement.reads:
            return None
        try:
            with postgres.connect(self.url) as connection, prepared(connection, query, self.schema) as (name, types):
                values = sql.SQL(", ").join(
                    sql.Literal([value] if kind.endswith("[]") else value)
                    for value, kind in zip(self.values, types, strict=True)
                )
                execute = sql.SQL("EXECUTE {} ({})" if types else "EXECUTE {}").format(name, values)
                explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {}").format(execute)
                plans = [connection.execute(explain).fetchone() for _ in range(TIMES)]
        except (psycopg.Error, ValueError):
            return None
        return statistics.median(float(row["QUERY PLAN"][0]["Execution Time"]) for row in plans if row)

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        took = "cannot be tried" if self.before is None else f"{self.before:.2f} ms"
        return {"index": self.proposal.name, "statement": shown(self.proposal.statement.query), "takes": took}

    def gained(self) -> Answer:
        """Whether the index makes the statement faster; where it cannot be tried, whether PostgreSQL would use it."""
        after = self.milliseconds()
        if self.before is None or after is None:
            with postgres.connect(self.url) as connection:
                used = uses(connection, self.proposal, self.schema)
            return Answer(used, {"index": self.proposal.name, "tried": False, "PostgreSQL would use it": used})
        factor = self.before / max(after, 0.001)
        said = {"index": self.proposal.name, "before": f"{self.before:.2f} ms", "after": f"{after:.2f} ms"}
        said["faster"] = f"{factor:.0f} times"
        return Answer(factor >= TWICE, said, f"Less than {TWICE:g} times faster is not worth what it costs each write.")


def gained(speeds: Sequence[Speed]) -> Answer:
    """Whether each of these has gained; with how much."""
    found = [speed.gained() for speed in speeds]
    wrong = "".join(one.otherwise for one in found if not one)
    return Answer(all(found), [one.evidence for one in found], wrong)


def _values(connection: Connection, proposal: Proposal) -> list[Any] | None:
    """Give a value for each parameter: of one row of the table, or of LIMIT and OFFSET; None if one stays unknown."""
    query = proposal.statement.query
    wanted = sorted({int(number) for number in re.findall(r"\$(\d+)", query)})
    columns = list(dict.fromkeys(proposal.parameters.values()))
    row: dict[str, Any] = {}
    if columns:
        names = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns)
        table = sql.Identifier(proposal.schema, proposal.table)
        found = connection.execute(sql.SQL("SELECT {} FROM {} OFFSET 100 LIMIT 1").format(names, table)).fetchone()
        row = dict(zip(columns, (found or {}).values(), strict=False))
    values: list[Any] = []
    for number in wanted:
        if (column := proposal.parameters.get(f"${number}")) and row.get(column) is not None:
            values.append(row[column])
        elif page := re.search(rf"\b(LIMIT|OFFSET)\s+\${number}\b", query, re.IGNORECASE):
            values.append(PAGE if page[1].upper() == "LIMIT" else 0)
        else:
            return None
    return values if wanted == list(range(1, len(wanted) + 1)) else None
