"""Slowness: what makes the database slow, the worst first, and what mends each."""

from collections.abc import Iterator, Sequence

from opslib.database.index import Useless
from opslib.database.index_proposal import Proposal
from opslib.database.server_statistics import BigTable, Figure
from opslib.database.statement import Statement, shown
from opslib.runbook.finding import Finding, Severity

SLOW, OFTEN = 20, 100
"""Milliseconds of a call, and calls, from which on a statement counts as slow: pghero's figures."""


def findings(
    figures: Sequence[Figure],
    missing: Sequence[dict[str, str]],
    statements: Sequence[Statement],
    tables: Sequence[BigTable],
    useless: Sequence[Useless],
    proposed: Sequence[Proposal],
) -> list[Finding]:
    """Say what was found."""
    found = [
        *(_figure(one) for one in figures if not one.well),
        *(_proposed(one) for one in proposed),
        *_slow(statements, proposed),
        *_read(tables, proposed),
        *(_useless(one) for one in useless),
        *(Finding(one["missing"], do=one["do"], severity=Severity.NOTICE) for one in missing),
    ]
    return sorted(found, key=lambda one: one.severity)


def _figure(one: Figure) -> Finding:
    what = f"{one.figure}: {one.value}, expected {one.expected}"
    return Finding(what, one.mend, do=one.do, severity=Severity.HARM if one.mend else Severity.NOTICE)


def _proposed(one: Proposal) -> Finding:
    what = f"{one.statement.calls} calls of {one.statement.mean:.1f} ms read the table {one.table} from end to end"
    return Finding(
        f"{what}; {one.name} would spare them that", "build_index", {"name": one.name}, severity=Severity.RISK
    )


def _slow(statements: Sequence[Statement], proposed: Sequence[Proposal]) -> Iterator[Finding]:
    mended = {one.statement.id for one in proposed}
    for one in statements:
        if one.id not in mended and one.calls >= OFTEN and one.mean >= SLOW:
            yield Finding(
                f"{one.calls} calls took {one.mean:.0f} ms each: {shown(one.query)}",
                do="Read its plan, with EXPLAIN (ANALYZE, BUFFERS) on a copy: no index by itself would help",
                severity=Severity.RISK,
            )


def _read(tables: Sequence[BigTable], proposed: Sequence[Proposal]) -> Iterator[Finding]:
    mended = {one.table for one in proposed}
    for one in tables:
        if one.table not in mended:
            yield Finding(
                f"the table {one.table} with {one.rows} rows was read from end to end {one.scans} times",
                do="Look for the statement that reads it, above" if one.analyzed else one.analyze,
                severity=Severity.NOTICE,
            )


def _useless(one: Useless) -> Finding:
    what = f"the index {one.index} of {one.table} is of no use ({one.why}), and slows every write"
    if one.invalid:
        return Finding(what, "drop_invalid_index", {"name": one.index}, severity=Severity.RISK)
    return Finding(what, do=f"keep its definition, then: {one.drop}", severity=Severity.NOTICE)
