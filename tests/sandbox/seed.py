"""The business data: the same at each start, but for the login's password."""

import hashlib
import random
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from .credentials import Credentials

FIRST = ["Ada", "Bo", "Carmen", "Dmitri", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jonas", "Kaya", "Liam", "Mei"]
LAST = ["Abbott", "Baker", "Costa", "Diaz", "Evans", "Fischer", "Garcia", "Hansen", "Ito", "Jensen", "Khan", "Lopez"]
STREETS = ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Hazel", "Juniper", "Linden", "Maple"]
CITIES = ["Austin", "Boise", "Denver", "Madison", "Portland", "Raleigh", "Tucson"]

# How many payments are in each state.
STATES = {"PAID": 190, "PENDING": 50, "FAILED": 25, "REFUNDED": 20, "PROCESSING": 15}


@dataclass(frozen=True)
class Payment:
    """One payment, before Stripe has given its intent an id."""

    tenant: int
    property: int
    amount: int
    status: str
    due: datetime
    paid: datetime | None


def rents() -> list[int]:
    """Return the monthly rent of each property, in cents."""
    dice = random.Random(40)
    return [dice.randrange(90_000, 320_000, 2_500) for _ in range(40)]


def payments() -> list[Payment]:
    """Return the payments of the last months; tenant and property are counted from 1."""
    dice, rent = random.Random(300), rents()
    today = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
    states = [status for status, count in STATES.items() for _ in range(count)]
    dice.shuffle(states)
    made = []
    for status in states:
        tenant = dice.randint(1, 60)
        home = home_of(tenant)
        due = today - timedelta(
            days=dice.randint(0, 25) if status in ("PENDING", "PROCESSING") else dice.randint(2, 150)
        )
        paid = due + timedelta(minutes=dice.randint(30, 2_000)) if status in ("PAID", "REFUNDED") else None
        made.append(Payment(tenant, home, rent[home - 1], status, due, paid))
    return sorted(made, key=lambda payment: payment.due)


def home_of(tenant: int) -> int:
    """Return the property that a tenant rents."""
    return (tenant * 7) % 40 + 1


def fill(connection: psycopg.Connection, credentials: Credentials, intents: list[str]) -> None:
    """Write all rows; the payments refer to `intents`, which Stripe has made for them in the same order."""
    dice = random.Random(12)
    names = [f"{dice.choice(FIRST)} {dice.choice(LAST)}" for _ in range(72)]
    login = ("On Call", credentials.login_email, "admin", _password_hash(credentials.login_password))
    staff = [
        (name, _address(name, n, "propertypulse"), "manager", _password_hash(secrets.token_hex()))
        for n, name in enumerate(names[:11])
    ]
    _copy(connection, "users (name, email, role, password_hash)", [login, *staff])
    _copy(
        connection,
        "properties (name, address, city, rent_amount)",
        [
            (
                f"{dice.choice(STREETS)} Court {n}",
                f"{dice.randint(1, 900)} {dice.choice(STREETS)} St",
                dice.choice(CITIES),
                rent,
            )
            for n, rent in enumerate(rents(), 1)
        ],
    )
    _copy(
        connection,
        "tenants (property_id, name, email, phone)",
        [(home_of(n), name, _address(name, n, "tenant"), f"+1 555 01{n:02}") for n, name in enumerate(names[12:], 1)],
    )
    _copy(
        connection,
        "payments (tenant_id, property_id, amount, status, due_date, paid_date, provider_intent_id, created_at)",
        [
            (p.tenant, p.property, p.amount, p.status, p.due.date(), p.paid, intent, p.due - timedelta(days=1))
            for p, intent in zip(payments(), intents, strict=True)
        ],
    )
    connection.execute("ANALYZE")


def _copy(connection: psycopg.Connection, target: str, rows: list[tuple[object, ...]]) -> None:
    with connection.cursor().copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)


def _address(name: str, number: int, host: str) -> str:
    return f"{name.lower().replace(' ', '.')}.{number}@{host}.example"


def _password_hash(password: str) -> str:
    """Hash as the API verifies: scrypt with Node's default costs."""
    salt = secrets.token_bytes(16)
    return f"scrypt${salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, n=16384, r=8, p=1, dklen=64).hex()}"
