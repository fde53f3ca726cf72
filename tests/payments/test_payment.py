"""Payments as they are named, counted and shown."""

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from opslib.payments import payment
from opslib.payments.settings import Payments
from opslib.runbook.errors import BadParameter

PREPARED, TEXT, UUID = Payments(), Payments(id_type="text", unit="major"), Payments(id_type="uuid")
CUID, UUID4 = "cm5k2x9000001jx08v6d2f3ab", "3f0c8c1e-7f3a-4f0e-9d5b-0a1b2c3d4e5f"


def test_names_are_ids_and_intents_each_once() -> None:
    assert payment.names(" 17, pi_3Ab_9,17 ,", PREPARED) == ["17", "pi_3Ab_9"]
    assert payment.names(f"{CUID},pi_3Ab_9", TEXT) == [CUID, "pi_3Ab_9"]
    assert payment.names(UUID4, UUID) == [UUID4]


@pytest.mark.parametrize(
    ("written", "currency", "amount"),
    [
        ("912.37", "usd", 91_237),
        ("1500", "usd", 150_000),
        ("1.1", "usd", 110),
        ("3.3000000000000003", "usd", 330),  # 1.1 * 3 as a double
        ("0.30000000000000004", "usd", 30),
        ("59.97000000000001", "usd", 5997),
        ("1e+06", "usd", 100_000_000),
        ("1500", "jpy", 1500),
        ("1.5", "kwd", 1500),
        ("1.005", "usd", Decimal("100.5")),
        ("1500.5", "jpy", Decimal("1500.5")),
        ("NaN", "usd", None),
        ("Infinity", "usd", None),
    ],
)
def test_dollars_are_compared_in_cents_exactly(written: str, currency: str, amount: int | Decimal | None) -> None:
    found = payment.minor(written, currency, TEXT)
    assert type(found) is (Decimal if amount is None else type(amount))
    assert amount is None or found == amount


@given(st.integers(0, 10**12))
def test_every_amount_in_cents_survives_a_double(cents: int) -> None:
    assert payment.minor(repr(cents / 100), "usd", TEXT) == cents
    assert payment.minor(str(cents), "usd", PREPARED) == cents


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "17;18",
        "1' OR '1'='1",
        "pi_",
        "pi_a b",
        "pi_a/../x",
        "pi_a?b",
        "pi_a%0d",
        "ch_1",
        "-1",
        "٣",
        "1" * 10,
        "$(id)",
    ],
)
def test_anything_else_is_refused_and_shown_as_text(text: str) -> None:
    for table in (PREPARED, UUID):
        with pytest.raises(BadParameter, match="expected `all`, or ids and intents"):
            payment.names(text, table)


@pytest.mark.parametrize(
    "text", ["", "1' OR '1'='1", "pi_", "pi_a b", "pi_a/../x", "a b", "-x", "٣", "c" * 65, "$(id)"]
)
def test_an_id_of_text_is_letters_and_digits(text: str) -> None:
    with pytest.raises(BadParameter, match="expected `all`, or ids and intents"):
        payment.names(text, TEXT)


@given(st.text() | st.from_regex(r"pi_.{0,9}|[0-9]{1,12}"))
def test_whatever_is_taken_has_no_metacharacter(text: str) -> None:
    taken: list[str] = []
    with suppress(BadParameter):
        taken = [*payment.names(text, PREPARED), *payment.names(text, TEXT)]
    assert all(name.isascii() and name.replace("_", "").replace("-", "").isalnum() for name in taken)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (150_000, "usd", "1,500.00 usd"),
        (1, "eur", "0.01 eur"),
        (1500, "jpy", "1,500 jpy"),
        (1500, "JPY", "1,500 JPY"),
        (1500, "kwd", "1.500 kwd"),
        (500, "ugx", "5.00 ugx"),  # without decimals, and written with two
        (Decimal("100.5"), "usd", "1.005 usd"),
        (Decimal("NaN"), "usd", "NaN usd"),
    ],
)
def test_money_is_shown_in_the_decimals_that_stripe_writes_it_in(
    amount: int | Decimal, currency: str, shown: str
) -> None:
    assert payment.money(amount, currency) == shown
