"""SendGrid asked by the API's key, on the stand-in: well, ill, limiting, and lists that are long."""

import time
import tracemalloc
from collections.abc import Iterator

import pytest

from opslib import propertypulse
from opslib.mail import sendgrid
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import ChangeFailed, RunbookError
from tests.drills import mailbox

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture(name="env")
def _env(sandbox: None) -> Iterator[PropertyPulse]:
    yield propertypulse.load("sandbox")
    mailbox.well()


def test_a_reply(env: PropertyPulse) -> None:
    answer = sendgrid.ask(env, "/v3/scopes")
    assert (answer.status, answer.problem) == (200, "")
    assert "mail.send" in answer.content["scopes"]


@pytest.mark.parametrize(
    ("fault", "asks", "said"),
    [
        ({"status": 500}, 2, ""),
        ({"status": 500, "times": 9}, 4, "HTTP 500, not done: a fault of the stand-in"),
        ({"status": 503, "headers": {"Retry-After": "1"}}, 2, ""),
        ({"status": 429, "headers": {"Retry-After": "1"}}, 2, ""),
        ({"status": 429}, 2, ""),
        ({"status": 429, "headers": {"Retry-After": "soon"}}, 2, ""),
        ({"status": 429, "times": 9, "headers": {"Retry-After": "0"}}, 4, "HTTP 429, the rate is limited"),
        ({"status": 401}, 1, "HTTP 401, the key is refused"),
        ({"status": 401, "message": "Maximum credits exceeded"}, 1, "HTTP 401, the plan is used up"),
        ({"status": 401, "message": "The requestor's IP Address is not whitelisted"}, 1, "HTTP 401, the address of"),
        (
            {"status": 401, "message": "The provided authorization grant is invalid, expired, or revoked"},
            1,
            "HTTP 401, the key is refused: The provided",
        ),
        ({"status": 403}, 1, "HTTP 403, not permitted to this key"),
        ({"status": 403, "message": "access forbidden: your IP address is not allowed"}, 1, "HTTP 403, the address of"),
        ({"status": 0}, 2, ""),
        ({"status": 0, "times": 9}, 4, "no answer from SendGrid"),
        ({"status": 200, "text": "<html>a proxy</html>"}, 1, "HTTP 200 with a body that is no JSON"),
    ],
)
def test_a_question_is_asked_again_where_that_helps(
    env: PropertyPulse, fault: dict[str, object], asks: int, said: str
) -> None:
    mailbox.admin("faults", **fault)
    answer = sendgrid.ask(env, "/v3/scopes")
    assert answer.problem.startswith(said) and bool(answer.problem) == bool(said)
    assert answer.refused == ("the key is refused" in said)
    times = int(str(fault.get("times", 1)))
    assert mailbox.admin("faults/left", "GET") == times - min(asks, times)


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        ({"status": 429, "headers": {"Retry-After": "1"}}, 1),  # refused, so it is tried again
        ({"status": 500}, 0),  # may have been taken, so it is not
        ({"status": 503, "headers": {"Retry-After": "1"}}, 0),
        ({"status": 0}, 0),
    ],
)
def test_what_acts_is_done_once_or_not(env: PropertyPulse, fault: dict[str, object], sent: int) -> None:
    before = len(mailbox.accepted())
    mailbox.admin("faults", path="/v3/mail", **fault)
    mail = {"personalizations": [{}], "from": {"email": sendgrid.settings(env).sender}, "subject": "x", "content": [{}]}
    answer = sendgrid.ask(env, "/v3/mail/send", "POST", mail)
    assert len(mailbox.accepted()) - before == sent
    assert bool(answer.problem) == (sent == 0)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "whether it was done is not known"), (401, "the key is refused"), (404, "HTTP 404")],
)
def test_an_act_that_is_not_done_says_so(env: PropertyPulse, status: int, said: str) -> None:
    mailbox.fault(status, path="/v3/suppression/bounces")
    lift = sendgrid.request(env, "DELETE", "/v3/suppression/bounces/nobody%40tenant.example", done=(204,))
    with pytest.raises(ChangeFailed, match=said):
        lift.run()


def test_the_end_of_a_limit_is_waited_for(env: PropertyPulse) -> None:
    mailbox.fault(429, headers={"X-RateLimit-Reset": str(int(time.time()) + 3)})
    begun = time.monotonic()
    assert sendgrid.ask(env, "/v3/scopes").problem == ""
    assert 1 < time.monotonic() - begun < 6


def test_a_long_list_is_read_page_by_page_and_not_held(env: PropertyPulse) -> None:
    mailbox.admin("suppressions", list="blocks", emails=[f"t{n}@many.example" for n in range(20_000)])
    try:
        tracemalloc.start()
        count = sum(1 for _ in sendgrid.listed(env, "/v3/suppression/blocks"))
        peak = tracemalloc.get_traced_memory()[1]
        assert count == 20_001
        assert peak < 4 << 20  # a page is some 50 kB, all of them 10 MB
        mailbox.fault(401, path="/v3/suppression")
        with pytest.raises(RunbookError, match="from entry 0 on: HTTP 401"):
            list(sendgrid.listed(env, "/v3/suppression/blocks"))
    finally:
        tracemalloc.stop()
        mailbox.admin("suppressions", list="blocks", emails=[])
