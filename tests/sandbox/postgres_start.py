"""Starts PostgreSQL alone, as a service of the system would: the command that the environment names for it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.sandbox import postgres

if __name__ == "__main__":
    postgres.part().start()
