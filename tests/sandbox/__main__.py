"""The command line of the stand-in."""

import argparse
import json
import sys
from dataclasses import asdict

from . import FAULTS, SandboxError, break_, mend, start, status, stop, toolchain
from .plain import deployment as plain
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
    faults = "\n".join(f"  {name:22}{fault.description}" for name, fault in FAULTS.items())
    breaking = commands.add_parser(
        "break", help="break it on purpose", epilog=f"faults:\n{faults}", formatter_class=argparse.RawTextHelpFormatter
    )
    breaking.add_argument("fault", metavar="FAULT")
    mending = commands.add_parser("mend", help="mend one fault, or all")
    mending.add_argument("fault", metavar="FAULT", nargs="?")
    traffic = commands.add_parser("traffic", help="send requests at a fixed rate and count the failed ones")
    traffic.add_argument("--rate", type=int, default=200, help=f"requests a second, at most {MOST_RATE}")
    traffic.add_argument("--seconds", type=float, default=20, help=f"for how long, at most {MOST_SECONDS}")
    traffic.add_argument("--json", action="store_true")
    return parser


def _install(_: argparse.Namespace) -> int:
    print("installed" if toolchain.install() else "already installed")
    return 0


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
    break_(options.fault)
    print(f"broken: {FAULTS[options.fault].description}")
    return 0


def _mend(options: argparse.Namespace) -> int:
    mend(options.fault)
    print("mended")
    return 0


def _traffic(options: argparse.Namespace) -> int:
    with Traffic(rate=options.rate, seconds=options.seconds) as traffic:
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
