"""The command `runbook`: list, run, check, records, show, verify."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from opslib.runbook import procedure as procedures
from opslib.runbook.answer import Answer
from opslib.runbook.errors import FOUND, Outcome, Refused, RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.step import Step, line

if TYPE_CHECKING:
    from opslib.runbook.listing import Summary

MOST_ROWS = 20
"""Rows of a step's evidence that the terminal shows."""

WIDEST = 31
"""Characters of the longest key of an environment's file whose line is proven."""

_SIGNS = {True: "✓", False: "✗", None: "?"}
_ERASE = "\r\x1b[K"  # what stands in the line of the cursor


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; give its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.do(options)
        return code
    except RunbookError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return Outcome.REFUSED.exit_code if isinstance(error, Refused) else Outcome.FAILED.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 128 + signal.SIGPIPE


def _run(options: argparse.Namespace) -> int:
    from opslib.runbook import runner

    given: dict[str, object] = {}
    for key, value in options.parameters:
        if key in given:
            raise Refused(f"parameter {key} is given twice")
        given[key] = value
    shorthand = {"environment": options.environment, "approval": options.approval, "reason": options.reason}
    shorthand |= {"incident": options.incident, "apply": options.apply}
    for key, value in shorthand.items():
        if value:
            if key in given:
                raise Refused(f"{key} is given twice, by -p and by its option")
            given[key] = value
    show = _show_json if options.json else _show_line
    execution = asyncio.run(runner.run(procedures.load(options.name), given, on_step=show))
    outcome, found = execution.outcome, [f"{one['title']} — {one['note']}" for one in execution.findings]
    if options.json:
        ended = {"outcome": outcome, "why": execution.why, "findings": found, "record": str(execution.path)}
        _say(json.dumps({"step": "record", **ended}))
    else:
        _say(f"{outcome}: {execution.why}")
        for one in found:
            _say(f"✗ {one}")
        _say(str(execution.path))
    return execution.exit_code


def _show_line(step: Step) -> None:
    if step["step"] in ("finding", "end"):  # said when the run is over
        return
    _say(line(step), passing=bool(step.get("progress")) and sys.stdout.isatty())
    rows = step.get("evidence", [])
    if step["step"] == "plan":
        for row in rows:
            _say(f"  {row['change']:>4}  {row['']}")
    elif rows and step["ok"] is not True:  # of what is well, one line is enough
        from opslib.runbook import table

        left = f"… {len(rows) - MOST_ROWS} more in the record" if len(rows) > MOST_ROWS else ""
        _say(indent("\n".join(filter(None, [table.plain(rows[:MOST_ROWS]), left])), "    "))


def _show_json(step: Step) -> None:
    _say(json.dumps({key: value for key, value in step.items() if key != "steps"}))


def _say(text: str, *, passing: bool = False) -> None:
    """Print a line at once; a passing one is written over by the next.

    Whoever reads may go away: that must cost the run neither its end nor its exit code.
    """
    if passing:
        text = text[: shutil.get_terminal_size().columns - 1]
    try:
        print(f"{_ERASE}{text}" if sys.stdout.isatty() else text, end="" if passing else "\n", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(options: argparse.Namespace) -> int:
    for name in procedures.names():
        one = procedures.load(name)
        print(f"{name:<28} {one.summary}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from opslib.runbook import environment

    env = environment.load(options.environment or environment.default("sandbox"))
    wrong = list[tuple[str, Answer]]()
    for key, answer in env.prove():
        if options.json:
            said = {"key": key, "ok": answer.ok, "found": answer.evidence, "otherwise": answer.otherwise}
            _say(mask.text(json.dumps(said)))
        elif answer:
            _say(_proven(key, answer))
        if not answer:
            wrong.append((key, answer))
    if not options.json:  # what is wrong stands at the end, where it is read, and after it what cannot be told
        for key, answer in sorted(wrong, key=lambda one: one[1].ok is None):
            _say(_proven(key, answer))
    return FOUND if wrong else 0


def _proven(key: str, answer: Answer) -> str:
    """Write a line of an environment's file with what was found, and what to do if that is not what it says."""
    said = str(answer.evidence) if answer else f"{str(answer.evidence).rstrip('.')}. {answer.otherwise}"
    return mask.text(f"{_SIGNS[answer.ok]} {key:<{WIDEST}}  {' '.join(said.split())}")


def _records(options: argparse.Namespace) -> int:
    from opslib.runbook import listing

    found = listing.records(environment=options.environment, procedure=options.procedure, incident=options.incident)
    for one in found:
        print(json.dumps(_json(one)) if options.json else _row(one))
    return 0


def _json(one: "Summary") -> dict[str, object]:
    return {**one.__dict__, "path": str(one.path)}


def _row(one: "Summary") -> str:
    mode = "apply" if one.apply else "plan"
    return f"{one.started[:19]:<19}  {one.environment:<12} {one.procedure:<26} {mode:<5}  {one.outcome:<12}  {one.path}"


def _show(options: argparse.Namespace) -> int:
    from opslib.runbook import export, listing

    print(export.html(listing.find(options.record)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from opslib.runbook import ledger, listing

    only = [listing.find(name) for name in options.records] or None
    wrong = ledger.problems(only)
    for problem in wrong:
        print(problem)
    if not wrong:
        print("The records are whole and unaltered.")
    return 1 if wrong else 0


def _approve(options: argparse.Namespace) -> int:
    from opslib.runbook import approval, environment
    from opslib.runbook.plan import short
    from opslib.runbook.session import operator

    planned, step = approval.plan(options.digest)
    print(f"{planned.procedure} in {planned.environment}, planned by {planned.operator} at {planned.started}")
    print(json.dumps(step["context"]))
    _show_line(step)
    env = environment.load(planned.environment)
    command = f"runbook run {planned.procedure} -e {env.name} --apply --approval {short(step['digest'])}"
    if env.policy(planned.procedure) != "second-person":
        print(f"This environment takes the digest alone as the approval: {command}, with the parameters above")
        return 0
    by = options.by or operator().split(" as ")[0]
    names = {"procedure": planned.procedure, "by": by}
    key, hours = Path(options.key).expanduser(), options.hours
    signed = approval.sign(step["digest"], environment=env, key=key, hours=hours, **names)
    print(f"Approved by {signed.by} until {signed.expires}. Now {planned.operator} may run: {command}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runbook", description="Operations procedures of PropertyPulse that run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the procedures")
    listing.set_defaults(do=_list)

    run = commands.add_parser("run", help="run a procedure; without --apply it only shows its plan")
    run.set_defaults(do=_run)
    run.add_argument("name", metavar="NAME", help="a procedure that `runbook list` shows")
    run.add_argument("-e", "--environment", default="", metavar="ENV", help="the deployment, a file in parameters/")
    run.add_argument("-p", nargs=2, action="append", default=[], dest="parameters", metavar=("KEY", "VALUE"))
    run.add_argument("--apply", action="store_true", help="carry the plan out")
    run.add_argument("--approval", default="", metavar="DIGEST", help="the digest of the approved plan")
    run.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    run.add_argument("--incident", default="", metavar="ID", help="the incident that this run belongs to")
    run.add_argument("--json", action="store_true", help="give each step as a line of JSON")

    check = commands.add_parser("check", help="prove each line of an environment's file against the world")
    check.set_defaults(do=_check)
    check.add_argument("-e", "--environment", default="", metavar="ENV", help="the deployment, a file in parameters/")
    check.add_argument("--json", action="store_true", help="give each line as a line of JSON")

    approve = commands.add_parser("approve", help="read a plan, and approve it for somebody else to carry out")
    approve.set_defaults(do=_approve)
    approve.add_argument("digest", metavar="DIGEST", help="of the plan, as the run without --apply showed it")
    approve.add_argument("--key", default="~/.ssh/id_ed25519", metavar="FILE", help="the SSH key to sign with")
    approve.add_argument(
        "--by", default="", metavar="NAME", help="the name in the file of allowed signers, if not your login"
    )
    approve.add_argument("--hours", type=float, default=24, help="how long the approval holds")

    records = commands.add_parser("records", help="list the records, newest first")
    records.set_defaults(do=_records)
    records.add_argument("--environment", default="", metavar="E")
    records.add_argument("--procedure", default="", metavar="P")
    records.add_argument("--incident", default="", metavar="I")
    records.add_argument("--json", action="store_true")

    show = commands.add_parser("show", help="render a record as HTML; prints the file's path")
    show.set_defaults(do=_show)
    show.add_argument("record", metavar="RECORD", help="its path, or the end of its name")

    verify = commands.add_parser("verify", help="check that records are whole and unaltered")
    verify.set_defaults(do=_verify)
    verify.add_argument("records", nargs="*", metavar="RECORD", help="only these; else all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
