"""The releases: their git origin, one directory for each commit, and which of them is current."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from .errors import SandboxError
from .layout import CURRENT, DOTENV, NODE_MODULES, ORIGIN, RELEASES, SOURCE, STATE

GOOD = "main"
BAD = "bad-release"
HANGING = "hanging-release"
SLOW = "slow-release"
LEAKING = "leaking-release"
NO_PREVIOUS = "no-previous-secret"
WEBHOOK_ERROR = "webhook-error"
PARSED_BODY = "parsed-body"
CLOCK_OFF = "clock-off"

# How each failing release differs from the good one: a file, a text in it, what stands there instead.
DEFECTS = {
    BAD: (
        "server/src/routes/payments.js",
        'const stripe = require("../stripe");\n',
        'const stripe = require("../stripe");\nconst pricing = require("../config/pricing");\n',
        "Read late fees from the pricing table",
    ),
    HANGING: (
        "server/src/server.js",
        "  const server = app.listen(",
        '  logger.info("Waiting for feature flag service…", { url: "http://flags.internal.example/v1" });\n'
        "  await new Promise(() => setInterval(() => {}, 60_000));\n  const server = app.listen(",
        "Load feature flags before listening",
    ),
    SLOW: (
        "server/src/server.js",
        "  const server = app.listen(",
        "  await new Promise((resolve) => setTimeout(resolve, 2_500));\n  const server = app.listen(",
        "Warm the caches before listening",
    ),
    LEAKING: (
        "server/src/middleware/timing.js",
        "module.exports = function timing(request, response, next) {\n",
        "const recent = [];\n\nmodule.exports = function timing(request, response, next) {\n"
        "  recent.push({ path: request.path, headers: Buffer.alloc(32_768, JSON.stringify(request.headers)) });\n",
        "Keep recent requests for the timing report",
    ),
    NO_PREVIOUS: (
        "server/src/config/env.js",
        "jwtSecrets: [process.env.JWT_SECRET, process.env.JWT_SECRET_PREVIOUS].filter(Boolean),",
        "jwtSecrets: [process.env.JWT_SECRET],",
        "Verify tokens with one secret",
    ),
    WEBHOOK_ERROR: (
        "server/src/routes/webhooks.js",
        "  const outcome = await processed(event);\n",
        '  const share = { usd: { rate: 0.029 }, eur: { rate: 0.015 } }[event.data.object.currency ?? "usd"].rate;\n'
        "  const outcome = await processed(event);\n"
        '  logger.debug("Fee of the provider", { fee: share * (event.data.object.amount ?? 0) });\n',
        "Note the provider's fee of a payment",
    ),
    PARSED_BODY: (
        "server/src/app.js",
        "// Before express.json(), which would consume the bytes that the signature is over.\n",
        "app.use(express.json());\n",
        "Parse JSON in one place",
    ),
    CLOCK_OFF: (
        "server/src/logger.js",
        'const path = require("node:path");\n',
        'const path = require("node:path");\n\nconst Real = Date;\n'
        "global.Date = class Date extends Real {\n"
        "  constructor(...given) {\n    super(...(given.length > 0 ? given : [Real.now() + 600_000]));\n  }\n\n"
        "  static now() {\n    return Real.now() + 600_000;\n  }\n};\n",
        "Set the clock ten minutes forward",
    ),
}


def create_origin() -> None:
    """Make the bare origin from the committed source: the good release and a branch for each defect."""
    work = STATE / "source"
    shutil.copytree(SOURCE, work, ignore=shutil.ignore_patterns("node_modules"))
    git("init", "--quiet", f"--initial-branch={GOOD}", cwd=work)
    _commit(work, "PropertyPulse 2.4.1")
    for branch, (file, text, replacement, subject) in DEFECTS.items():
        git("switch", "--quiet", "--create", branch, GOOD, cwd=work)
        source = (work / file).read_text()
        if text not in source:
            raise SandboxError(f"{file} lacks {text.strip()!r}, which {branch} replaces: adjust DEFECTS")
        (work / file).write_text(source.replace(text, replacement))
        _commit(work, subject)
    git("switch", "--quiet", GOOD, cwd=work)
    git("clone", "--quiet", "--bare", str(work), str(ORIGIN), cwd=work)
    shutil.rmtree(work)


def sha_of(branch: str) -> str:
    """Return the full SHA that a branch of the origin is at."""
    return git("rev-parse", f"refs/heads/{branch}", cwd=ORIGIN)


def check_out(branch: str) -> Path:
    """Make the release directory of a branch, unless it is there, and return it."""
    sha = sha_of(branch)
    target = RELEASES / sha
    if not target.exists():
        part = RELEASES / f".{sha}"
        shutil.rmtree(part, ignore_errors=True)
        git("clone", "--quiet", "--branch", branch, str(ORIGIN), str(part), cwd=RELEASES)
        stamp(part)
        (part / "node_modules").symlink_to(NODE_MODULES)
        (part / "server" / ".env").symlink_to(os.path.relpath(DOTENV, target / "server"))
        part.rename(target)
    return target


def add_defect(branch: str) -> Path:
    """Make the release directory of what is current with the defect of a branch besides, and return it."""
    part = RELEASES / ".added"
    shutil.rmtree(part, ignore_errors=True)
    git("clone", "--quiet", "--no-hardlinks", str(CURRENT.resolve()), str(part), cwd=RELEASES)
    git("fetch", "--quiet", str(ORIGIN), branch, cwd=part)
    git("cherry-pick", "FETCH_HEAD", cwd=part)
    target = RELEASES / git("rev-parse", "HEAD", cwd=part)
    stamp(part)
    (part / "node_modules").symlink_to(NODE_MODULES)
    (part / "server" / ".env").symlink_to(os.path.relpath(DOTENV, target / "server"))
    part.rename(target)
    return target


def stamp(release: Path) -> None:
    """Write the SHA of the code that is checked out where the API reads it."""
    sha = git("rev-parse", "HEAD", cwd=release)
    (release / "server" / "release.json").write_text(json.dumps({"sha": sha}) + "\n")


def restore(target: Path, branch: str) -> None:
    """Have git check out a branch in an existing release directory, whatever was changed there."""
    sha = sha_of(branch)
    if git("rev-parse", "HEAD", cwd=target) != sha or git("status", "--porcelain", "--untracked-files=no", cwd=target):
        git("fetch", "--quiet", "origin", cwd=target)
        git("checkout", "--quiet", "--force", "--detach", sha, cwd=target)
        stamp(target)


def make_current(release: Path) -> None:
    """Point `current` at a release, at once."""
    part = CURRENT.with_name(".current")
    part.unlink(missing_ok=True)
    part.symlink_to(release.relative_to(CURRENT.parent))
    part.replace(CURRENT)


def git(*arguments: str, cwd: Path) -> str:
    """Run git apart from the settings of whoever runs us, and return what it printed."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
    }
    command = ("git", "-c", "user.name=PropertyPulse", "-c", "user.email=dev@propertypulse.example", *arguments)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"git {' '.join(arguments)} exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _commit(work: Path, subject: str) -> None:
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message", subject, cwd=work)
