"""Payments as they are named and shown."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from opslib.payments import payment
from opslib.runbook.errors import BadParameter


def test_names_are_ids_and_intents_each_once() -> None:
    assert payment.names(" 17, pi_3Ab_9,17 ,") == ["17", "pi_3Ab_9"]


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
    with pytest.raises(BadParameter, match="expected `all`, or ids and intents"):
        payment.names(text)


@given(st.text() | st.from_regex(r"pi_.{0,9}|[0-9]{1,12}"))
def test_whatever_is_taken_has_no_metacharacter(text: str) -> None:
    taken: list[str] = []
    with suppress(BadParameter):
        taken = payment.names(text)
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in taken)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (150_000, "usd", "1,500.00 usd"),
        (1, "eur", "0.01 eur"),
        (1500, "jpy", "1,500 jpy"),
        (1500, "JPY", "1,500 JPY"),
        (1500, "kwd", "1.500 kwd"),
        (500, "ugx", "5.00 ugx"),  # without decimals, and written with two
    ],
)
def test_money_is_shown_in_the_decimals_that_stripe_writes_it_in(amount: int, currency: str, shown: str) -> None:
    assert payment.money(amount, currency) == shown
