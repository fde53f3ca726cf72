"""Where the plain stand-in keeps things, and the ports of its own; the servers are those of the first."""

from pathlib import Path
from typing import Final

from .. import layout
from ..layout import BIN

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "app"
BY_HAND: Final = HERE / "by_hand.sql"

STATE: Final = layout.STATE / "plain"
ADMIN: Final = STATE / "admin"
CREDENTIALS: Final = STATE / "credentials.json"
STARTED: Final = STATE / "started.json"
SAVED: Final = STATE / "faults"
GOOGLE_KEYS: Final = STATE / "google"
PM2_HOME: Final = STATE / "pm2"
ORIGIN: Final = STATE / "origin.git"
CHECKOUT: Final = STATE / "propertypulse"
SERVER: Final = CHECKOUT / "server"
DOTENV: Final = SERVER / ".env"
LOGS: Final = SERVER / "logs"

API: Final = 5001
GOOGLE: Final = 25005

# What a deploy user's login would have. PM2 stores it: no secret may be in it.
ENVIRONMENT: Final = {
    "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
    "HOME": str(STATE),
    "PM2_HOME": str(PM2_HOME),
    "LANG": "C.UTF-8",
}
