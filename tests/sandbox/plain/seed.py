"""The business data of the plain stand-in: the same at each start, in dollars, with the ids that Prisma gives."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from ..fault import stripe
from ..seed import CITIES, FIRST, LAST, STREETS
from .credentials import Credentials
from .firebase import UID

# How many payments are in each state, and how many of these Stripe knows.
STATES = {"PAID": (18, 13), "PENDING": (10, 8), "OVERDUE": (5, 3), "FAILED": (4, 4), "CANCELLED": (3, 2)}
PAYABLE = ("PENDING", "OVERDUE")
AT_STRIPE = {"PAID": "succeeded", "FAILED": "requires_payment_method", "CANCELLED": "canceled"}
TENANTS, PROPERTIES = 12, 8
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass
class Payment:
    """One payment; its intent is there once Stripe has made it."""

    status: str
    tenant: int
    amount: float
    due: datetime
    paid: datetime | None
    at_stripe: bool
    intent: str | None = None

    @property
    def cents(self) -> int:
        """The amount in minor units, as Stripe has it."""
        return round(self.amount * 100)


def ids(seed: int) -> Iterator[str]:
    """Give ids as cuid makes them: a time, a count, whose they are, and chance."""
    dice = random.Random(seed)
    for count in range(36**4):
        yield (
            "c"
            + _digits(1_722_470_400_000 + count * 60_011, 8)
            + _digits(count, 4)
            + "6v2p"
            + _digits(dice.randrange(36**8), 8)
        )


def _digits(number: int, width: int) -> str:
    text = ""
    while number or len(text) < width:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text[-width:]


def payments() -> list[Payment]:
    """Return the payments of the last months; tenants are counted from 0."""
    dice = random.Random(41)
    today = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0, tzinfo=None)
    made = []
    for status, (count, known) in STATES.items():
        for number in range(count):
            tenant = dice.randrange(TENANTS)
            due = today + timedelta(days=dice.randint(1, 20) if status == "PENDING" else -dice.randint(3, 120))
            paid = due + timedelta(minutes=dice.randint(30, 2_000)) if status == "PAID" else None
            # Rent with cents: in floating point not every such amount times a hundred is a whole number.
            amount = rent(tenant) + dice.choice((0, 0, 0.5, 12.37, 19.99, 64.1))
            made.append(Payment(status, tenant, amount, due, paid, number < known))
    return made


def rent(tenant: int) -> float:
    """Return a tenant's rent, in dollars."""
    return 900 + 125.0 * (tenant % PROPERTIES)


def make_intents(made: list[Payment]) -> list[str]:
    """Have Stripe make the intents: those that can still be paid, and as they ended the others, whose ids it gives."""
    ended = [payment for payment in made if payment.at_stripe and payment.status in AT_STRIPE]
    now = datetime.now(UTC).replace(tzinfo=None)
    asked = [
        {
            "amount": payment.cents,
            "status": AT_STRIPE[payment.status],
            "age": int((now - (payment.paid or payment.due)).total_seconds()),
            "event": "delivered" if payment.status == "PAID" else "none",
        }
        for payment in ended
    ]
    names: list[str] = stripe("/_sandbox/payment_intents", payments=asked)["ids"]
    for payment, name in zip(ended, names, strict=True):
        payment.intent = name
    for payment in made:
        if payment.at_stripe and payment.status in PAYABLE:
            form = {"amount": str(payment.cents), "currency": "usd"}
            payment.intent = stripe("/v1/payment_intents", form=form)["id"]
    return names


def fill(connection: psycopg.Connection, credentials: Credentials, made: list[Payment]) -> None:
    """Write all rows."""
    dice, new, now = random.Random(13), ids(7), datetime.now(UTC).replace(tzinfo=None)
    names = [f"{dice.choice(FIRST)} {dice.choice(LAST)}" for _ in range(TENANTS + 1)]
    addresses = [f"{name.lower().replace(' ', '.')}.{n}@renters.example" for n, name in enumerate(names)]
    tenants, properties, leases = ([next(new) for _ in range(n)] for n in (TENANTS, PROPERTIES, TENANTS))
    admin, landlord = next(new), next(new)
    people = [
        (admin, UID, credentials.login_email, "On Call", "ADMIN", now),
        (landlord, "kP0landlord7PropertyPulse002", addresses[-1], names[-1], "LANDLORD", now),
        *(
            (tenant, f"tN4tenant{n:02}PropertyPulse{n:03}", addresses[n], names[n], "TENANT", now)
            for n, tenant in enumerate(tenants)
        ),
    ]
    homes = [
        (
            home,
            landlord,
            f"{dice.choice(STREETS)} House {n}",
            f"{dice.randint(1, 900)} {dice.choice(STREETS)} Ave",
            dice.choice(CITIES),
            rent(n),
            now,
        )
        for n, home in enumerate(properties)
    ]
    year = timedelta(days=365)
    contracts = [
        (lease, properties[n % PROPERTIES], tenants[n], now - year / 2, now + year / 2, rent(n), now)
        for n, lease in enumerate(leases)
    ]
    paid = [
        (
            next(new),
            leases[payment.tenant] if n % 7 else None,
            tenants[payment.tenant],
            payment.amount,
            "RENT" if n % 7 else "DEPOSIT",
            payment.status,
            payment.due,
            payment.paid,
            "stripe" if payment.intent else "manual" if n % 2 else None,
            payment.intent,
            payment.due - timedelta(days=25),
            now,
        )
        for n, payment in enumerate(made)
    ]
    tickets = [
        (next(new), properties[n], tenants[n], "Tap drips", "In the kitchen, since Monday.", [f"p/{n}.jpg"], now)
        for n in range(6)
    ]
    applied = [(next(new), properties[n], tenants[-n - 1], "Is it still free?", now) for n in range(4)]
    reminders = [
        (next(new), row[0], addresses[payment.tenant], "Your rent is due soon", "Rent is due.", payment.due, now)
        for row, payment in zip(paid, made, strict=True)
        if payment.status == "PENDING"
    ]
    tables: list[tuple[str, Sequence[tuple[object, ...]]]] = [
        ('users (id, "firebaseUid", email, name, role, "updatedAt")', people),
        ('properties (id, "ownerId", title, address, city, "rentAmount", "updatedAt")', homes),
        ('leases (id, "propertyId", "tenantId", "startDate", "endDate", "rentAmount", "updatedAt")', contracts),
        (
            'payments (id, "leaseId", "tenantId", amount, type, status, "dueDate", "paidDate", provider,'
            ' "providerIntentId", "createdAt", "updatedAt")',
            paid,
        ),
        (
            'maintenance_tickets (id, "propertyId", "createdById", title, description, photos, "updatedAt")',
            tickets,
        ),
        ('applications (id, "propertyId", "applicantId", message, "updatedAt")', applied),
        (
            'reminder_schedules (id, "paymentId", "recipientEmail", subject, message, "scheduledFor", "updatedAt")',
            reminders,
        ),
    ]
    for target, rows in tables:
        _copy(connection, target, rows)
    connection.execute("ANALYZE")


def _copy(connection: psycopg.Connection, target: str, rows: Iterable[tuple[object, ...]]) -> None:
    with connection.cursor().copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
