"""Where the stand-in keeps things, and the ports that it listens on."""

import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
SOURCE: Final = HERE / "app"
NODE_MODULES: Final = HERE / "node_modules"

STATE: Final = HERE / "state"
BIN: Final = STATE / "bin"
CREDENTIALS: Final = STATE / "credentials.json"
ADMIN: Final = STATE / "admin"
PM2_HOME: Final = STATE / "pm2"
APP: Final = STATE / "app"
ORIGIN: Final = APP / "origin.git"
RELEASES: Final = APP / "releases"
CURRENT: Final = APP / "current"
DOTENV: Final = APP / "shared" / ".env"
LOGS: Final = APP / "logs"
INTENTS: Final = STATE / "stripe" / "intents.json"

HOST: Final = "127.0.0.1"
API: Final = 5000
AWS: Final = 25001
LOCALSTRIPE: Final = 25002
STRIPE: Final = 25003
SENDGRID: Final = 25004
POSTGRES: Final = 25432
REDIS: Final = 26379

# What a deploy user's login would have. The workers inherit it, and PM2 stores it: no secret may be in it.
ENVIRONMENT: Final = {
    "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
    "HOME": str(APP),
    "PM2_HOME": str(PM2_HOME),
    "LANG": "C.UTF-8",
}

PYTHON: Final = sys.executable


def url(port: int) -> str:
    """Return the base address of the part that listens on `port`."""
    return f"http://{HOST}:{port}"
