"""The command line of the stand-in."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict

from . import FAULTS, SandboxError, break_, mend, start, status, stop, toolchain
from .fault import Fault
from .plain import deployment as plain, fault as plain_fault
from .plain.traffic import PlainTraffic
from .traffic import MOST_RATE, MOST_SECONDS, Traffic


def main() -> int:
    """Carry out one command; 0 if all is well, 1 if something is not ready or has failed, 2 for bad input."""
    options = _parser().parse_args()
    try:
        return COMMANDS[options.command](options)
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox", description="A real PropertyPulse on loopback.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("install", help="install Node.js, npm packages and commands")
    starting = commands.add_parser("start", help="start every part")
    starting.add_argument("--plain", action="store_true", help="and the plain stand-in beside it")
    starting.add_argument(
        "--instances", type=int, default=1, help="of the plain API: 1 is fork mode, more are a cluster"
    )
    stopping = commands.add_parser("stop", help="stop every part and delete its state")
    stopping.add_argument("--plain", action="store_true", help="stop the plain stand-in only")
    commands.add_parser("status", help="show each part; exit 1 if one is not ready")
    breaking = commands.add_parser(
        "break",
        help="break it on purpose",
        epilog=f"faults:\n{_listed(FAULTS)}\n\nof the plain stand-in:\n{_listed(plain_fault.FAULTS)}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    breaking.add_argument("fault", metavar="FAULT")
    breaking.add_argument("--plain", action="store_true", help="the plain stand-in, in its own ways")
    mending = commands.add_parser("mend", help="mend one fault, or all")
    mending.add_argument("fault", metavar="FAULT", nargs="?")
    mending.add_argument("--plain", action="store_true", help="the plain stand-in")
    traffic = commands.add_parser("traffic", help="send requests at a fixed rate and count the failed ones")
    traffic.add_argument("--rate", type=int, default=200, help=f"requests a second, at most {MOST_RATE}")
    traffic.add_argument("--seconds", type=float, default=20, help=f"for how long, at most {MOST_SECONDS}")
    traffic.add_argument("--json", action="store_true")
    traffic.add_argument("--plain", action="store_true", help="to the plain API, which knows nobody")
    return parser


def _install(_: argparse.Namespace) -> int:
    print("installed" if toolchain.install() else "already installed")
    return 0


def _listed(faults: Mapping[str, Fault]) -> str:
    return "\n".join(f"  {name:22}{fault.description}" for name, fault in faults.items())


def _start(options: argparse.Namespace) -> int:
    started = start()
    if options.plain:
        started = plain.start(options.instances) or started
    print("started" if started else "already running")
    return 0


def _stop(options: argparse.Namespace) -> int:
    stopped = plain.stop() if options.plain else stop()
    print("stopped" if stopped else "nothing was running")
    return 0


def _status(_: argparse.Namespace) -> int:
    states = [*status(), *plain.status()]
    for state in states:
        pids = ",".join(map(str, state.pids)) or "-"
        print(f"{state.name:20}{state.port:>6}  {pids:24}{state.problem or 'ready'}")
    return 0 if all(state.problem is None for state in states) else 1


def _break(options: argparse.Namespace) -> int:
    if options.plain:
        plain_fault.break_(options.fault)
    else:
        break_(options.fault)
    print(f"broken: {(plain_fault.FAULTS if options.plain else FAULTS)[options.fault].description}")
    return 0


def _mend(options: argparse.Namespace) -> int:
    if options.plain:
        plain_fault.mend(options.fault)
    else:
        mend(options.fault)
    print("mended")
    return 0


def _traffic(options: argparse.Namespace) -> int:
    kind = PlainTraffic if options.plain else Traffic
    with kind(rate=options.rate, seconds=options.seconds) as traffic:
        traffic.wait()
    result = traffic.result
    print(json.dumps(asdict(result), indent=2) if options.json else result)
    return 1 if result.failed else 0


COMMANDS = {
    "install": _install,
    "start": _start,
    "stop": _stop,
    "status": _status,
    "break": _break,
    "mend": _mend,
    "traffic": _traffic,
}

if __name__ == "__main__":
    sys.exit(main())
