"""The checkout that the API runs in, its origin, and the commits that break it: a deploy is a pull in place."""

import json
import shutil
from pathlib import Path

from .. import toolchain
from ..errors import SandboxError
from ..layout import HERE, NODE_MODULES, SOURCE as PREPARED
from ..release import git
from .layout import CHECKOUT, ORIGIN, SERVER, SOURCE, STATE

GOOD = "main"
KEPT = "refs/sandbox/good"
"""Where the origin keeps the good commit while `main` is at another."""

BAD = "bad-release"
HANGING = "hanging-release"
SLOW = "slow-release"
CRASHING = "crash-looping"
LEAKING = "memory-leak"
WEBHOOK_ERROR = "webhook-error"
PARSED_BODY = "parsed-body"
CLOCK_OFF = "clock-off"

LISTEN = "app.listen(PORT, (error) => {\n"
# How each failing commit differs from the good one: a file, a text in it, what stands there instead, its subject.
DEFECTS = {
    BAD: (
        "server/src/routes/payments.js",
        'const stripe = require("../stripe");\n',
        'const stripe = require("../stripe");\nconst lateFees = require("../config/lateFees");\n',
        "Late fees by state",
    ),
    HANGING: (
        "server/server.js",
        LISTEN,
        'console.log("⏳ Waiting for feature flags...");\nsetInterval(() => {}, 60 * 1000);\n\n'
        f"const whenReady = () => {LISTEN}",
        "Feature flags",
    ),
    SLOW: (
        "server/server.js",
        LISTEN,
        'console.log("⏳ Warming up...");\nAtomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 4000);\n\n'
        f"{LISTEN}",
        "Warm the caches before listening",
    ),
    CRASHING: (
        "server/server.js",
        "  startReminderWorker();\n",
        "  startReminderWorker();\n  setTimeout(() => {\n"
        '    throw new Error("Subscription check failed: plan is undefined");\n  }, 1500);\n',
        "Check the subscription's plan",
    ),
    LEAKING: (
        "server/src/middleware/slowRequests.js",
        "module.exports = function slowRequests(req, res, next) {\n",
        "const recent = [];\n\nmodule.exports = function slowRequests(req, res, next) {\n"
        "  recent.push({ url: req.originalUrl, headers: Buffer.alloc(32768, JSON.stringify(req.headers)) });\n",
        "Keep recent requests for the admin page",
    ),
    WEBHOOK_ERROR: (
        "server/src/routes/webhooks.js",
        "async function markPaid(intent) {\n",
        "const FEES = { usd: { card: 0.029 }, eur: { card: 0.015 } };\n\nasync function markPaid(intent) {\n"
        "  const fee = intent.amount * FEES[intent.currency].card;\n"
        "  if (fee > intent.amount) return;\n",
        "Fees of the provider",
    ),
    PARSED_BODY: (
        "server/server.js",
        "// Stripe needs the raw body, so this stands before express.json()\n",
        'app.use(express.json({ limit: "10mb" }));\n',
        "Parse JSON in one place",
    ),
    CLOCK_OFF: (
        "server/server.js",
        'require("dotenv").config({ quiet: true });\n',
        'require("dotenv").config({ quiet: true });\n\nconst Real = Date;\n'
        "global.Date = class Date extends Real {\n"
        "  constructor(...given) {\n    super(...(given.length > 0 ? given : [Real.now() + 600000]));\n  }\n\n"
        "  static now() {\n    return Real.now() + 600000;\n  }\n};\n",
        "Set the clock ten minutes forward",
    ),
}


def create() -> None:
    """Make the origin from the committed source, and the checkout that the API runs in."""
    work = STATE / "source"
    shutil.copytree(SOURCE, work)
    # How Prisma's CLI does without native engines: the same for both.
    shutil.copy(PREPARED / "server" / "prisma.config.mjs", work / "server")
    (work / "server" / "package-lock.json").write_text(_lock())
    git("init", "--quiet", f"--initial-branch={GOOD}", cwd=work)
    _commit(work, "PropertyPulse 1.8.0")
    for branch, (file, text, replacement, subject) in DEFECTS.items():
        git("switch", "--quiet", "--create", branch, GOOD, cwd=work)
        source = (work / file).read_text()
        if text not in source:
            raise SandboxError(f"{file} lacks {text.strip()!r}, which {branch} replaces: adjust DEFECTS")
        (work / file).write_text(source.replace(text, replacement))
        _commit(work, subject)
    git("switch", "--quiet", GOOD, cwd=work)
    git("clone", "--quiet", "--bare", str(work), str(ORIGIN), cwd=work)
    git("update-ref", KEPT, sha_of(GOOD), cwd=ORIGIN)
    shutil.rmtree(work)
    git("clone", "--quiet", str(ORIGIN), str(CHECKOUT), cwd=STATE)
    # What its .gitignore leaves out, as somebody has noted for this machine alone.
    (CHECKOUT / ".git" / "info" / "exclude").write_text("node_modules\n/server/logs/\n/client/dist/\n")
    _install(SERVER / "node_modules")


def _lock() -> str:
    """Give the lock file of the server's packages: they are among those that the stand-in itself runs on."""
    lock, package = json.loads((HERE / "package-lock.json").read_text()), SOURCE / "server" / "package.json"
    wanted = json.loads(package.read_text())
    about = {name: wanted[name] for name in ("name", "version")}
    lock["packages"][""] = {**about, "dependencies": wanted["dependencies"]}
    return json.dumps({**lock, **about}, indent=2) + "\n"


def _install(target: Path) -> None:
    """Fill node_modules with links: what `npm ci` removes there are these, never what they lead to."""
    toolchain.link_packages(target)
    shutil.copytree(NODE_MODULES / toolchain.PLAIN_CLIENT, target / ".prisma")


def sha_of(ref: str) -> str:
    """Return the full SHA that a branch of the origin is at."""
    return git("rev-parse", ref, cwd=ORIGIN)


def pull(branch: str) -> None:
    """Have the origin's main be at this branch, and pull it in place as a deploy does."""
    restore()
    git("update-ref", f"refs/heads/{GOOD}", sha_of(f"refs/heads/{branch}"), cwd=ORIGIN)
    git("pull", "--quiet", "origin", GOOD, cwd=CHECKOUT)


def restore() -> None:
    """Bring the origin and the checkout back to the good commit, whatever was changed there."""
    good = sha_of(KEPT)
    git("update-ref", f"refs/heads/{GOOD}", good, cwd=ORIGIN)
    if head() == good and not changes() and git("branch", "--show-current", cwd=CHECKOUT) == GOOD:
        return
    git("fetch", "--quiet", "origin", cwd=CHECKOUT)
    git("checkout", "--quiet", "--force", "-B", GOOD, good, cwd=CHECKOUT)
    git("clean", "--quiet", "-fd", cwd=CHECKOUT)


def head() -> str:
    """Return the SHA of what is checked out."""
    return git("rev-parse", "HEAD", cwd=CHECKOUT)


def changes() -> str:
    """Return what git calls changed or untracked in the checkout."""
    return git("status", "--porcelain", cwd=CHECKOUT)


def soil() -> None:
    """Change a file and add one, as somebody does who mends something at night."""
    uploads = SERVER / "src" / "routes" / "uploads.js"
    uploads.write_text(
        uploads.read_text().replace("const EXPIRES = 900;", "const EXPIRES = 1800; // hotfix, customers wait")
    )
    (SERVER / "fix-payments.js").write_text('require("dotenv").config();\n// TODO: mark pi_… paid by hand\n')


def _commit(work: Path, subject: str) -> None:
    git("add", "--all", cwd=work)
    git("commit", "--quiet", "--message", subject, cwd=work)
