"""Signatures: three implementations agree; what a route does with the probes names what is wrong with it."""

import base64
import hashlib
import hmac
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.api.pm2 import Worker
from opslib.payments import clock_skew, signature, webhook_route
from opslib.payments.clock_skew import Clock, Seconds
from opslib.payments.delivery_cause import Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.signature import COMPACT, FUTURE_CASE, ODD, Probed
from opslib.payments.webhook_route import Tried
from opslib.runbook.answer import Answer
from tests.sandbox import toolchain
from tests.sandbox.layout import BIN, HERE

CASES = 10_000
APP = """
const Stripe = require("stripe");
const stripe = new Stripe("sk_test_none");
const lines = require("node:fs").readFileSync(0, "utf8").trim().split("\\n");
for (const line of lines) {
  const { payload, header, secrets, at } = JSON.parse(line);
  Date.now = () => at * 1000;
  const taken = secrets.some((secret) => {
    try {
      return stripe.webhooks.constructEvent(Buffer.from(payload, "base64"), header, secret);
    } catch {
      return false;
    }
  });
  console.log(taken ? 1 : 0);
}
"""


def generated(count: int) -> Iterator[tuple[bytes, str, list[str], int]]:
    """Payloads, headers, secrets and times: good ones, and such as have one thing wrong, or several.

    Left out is where Stripe's own libraries differ: two times in one header, a time with something behind it, a byte
    order mark, bytes that are not UTF-8. Stripe sends none of these.
    """
    dice = random.Random(8)
    spaces = [(",", ":"), (", ", ": "), (" ,\t", " :\r\n ")]
    for number in range(count):
        body = {"id": f"evt_{number}", "text": "".join(dice.choices("aé漢😀'\"\\;<>& \u2028", k=dice.randrange(9)))}
        payload = json.dumps(body, separators=dice.choice(spaces), ensure_ascii=dice.random() < 0.5).encode()
        secrets = [f"whsec_{dice.randbytes(8).hex()}" for _ in range(dice.randint(1, 2))]
        at = 1_700_000_000 + dice.randrange(10**8)
        stamp = at - dice.choice([0, 1, 299, 300, 301, 400, -1, -600, -(10**6)])
        key = dice.choice([*secrets, *secrets, "whsec_other"])
        mac = hmac.new(key.encode(), b"%d." % stamp + payload, hashlib.sha256).hexdigest()
        wrong = hashlib.sha256(mac.encode()).hexdigest()
        header = dice.choice(
            [
                *[f"t={stamp},v1={mac}"] * 6,
                f"v1={mac},t={stamp}",
                f"t={stamp},v1={wrong},v1={mac}",
                f"t={stamp},v1={mac},v1={wrong},v0={wrong}",
                f"t={stamp},v0={mac}",
                f"t={stamp},v1={mac.upper()}",
                f"t={stamp}, v1={mac}",
                f"t={stamp},v1={mac},",
                f"t={stamp},v1={mac[:-1]}",
                f"t=00{stamp},v1={mac}",
                f"t={stamp + 1},v1={mac}",
                f"t={stamp},v1=",
                f"t=,v1={mac}",
                f"t=soon,v1={mac}",
                f"v1={mac}",
                f"t={stamp}",
                "test",
                ",",
                "=",
            ]
        )
        yield (payload + b" " if dice.random() < 0.1 else payload), header, secrets, at


def test_the_application_and_the_notebook_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.install()
    cases = list(generated(CASES))
    ours = []
    with monkeypatch.context() as patched:
        for payload, header, secrets, at in cases:
            patched.setattr("stripe._webhook.time.time", lambda at=at: float(at))
            ours.append(any(webhook_route.holds(payload, header, secret) for secret in secrets))
    lines = "\n".join(
        json.dumps({"payload": base64.b64encode(p).decode(), "header": h, "secrets": s, "at": at})
        for p, h, s, at in cases
    )
    node = subprocess.run(
        [str(BIN / "node"), "-e", APP], input=lines, capture_output=True, text=True, cwd=HERE, timeout=60
    )
    assert node.returncode == 0, node.stderr
    app = [line == "1" for line in node.stdout.split()]
    assert len(app) == CASES
    assert [case for case, *said in zip(cases, ours, app, strict=True) if len(set(said)) > 1] == []
    assert 0.2 < sum(ours) / CASES < 0.8


def test_the_cases_are_what_their_names_say() -> None:
    cases = {case.name: case for case in signature.cases(propertypulse.load("sandbox"), "whsec_ours")}
    assert {name for name, case in cases.items() if case.takes} == {name for name in cases if name.startswith("valid")}
    body = json.loads(cases[ODD].payload)
    assert body == json.loads(cases[COMPACT].payload)
    assert body["type"] == "opslib.probe"
    again = json.dumps(body, indent=2).encode()
    assert not webhook_route.holds(again, cases[ODD].header, "whsec_ours")  # what a parser would make of it


def probed(skew: float | None = 0, logged: tuple[Cause, ...] = (), **answers: str) -> Probed:
    """What a route answered: to all `valid` ones, or to one of them by name."""
    names = {"compact": COMPACT, "odd": ODD, "future": FUTURE_CASE, "wrong": "wrong secret"}
    tried = []
    for word, name in names.items():
        answer = answers.get(word, "refused" if word == "wrong" else answers.get("valid", "taken"))
        counts = {"taken": 0, "refused": 0, "instead": ""}
        counts |= {answer: 8} if answer in counts else {"instead": f"{answer} ×8"}
        tried.append(Tried(name, "refused" if word == "wrong" else "taken", **counts))  # type: ignore[arg-type]
    return Probed(tried, [Trace(1.0, 1, cause, "said") for cause in logged], skew)


@pytest.mark.parametrize(
    ("seen", "causes"),
    [
        (probed(), []),
        (probed(valid="refused", logged=(Cause.PARSED,)), [Cause.PARSED]),
        (probed(valid="refused", logged=(Cause.PARSED,), skew=600), [Cause.PARSED, Cause.CLOCK]),
        (probed(odd="refused", logged=(Cause.WRONG_SECRET,)), [Cause.PARSED]),  # parsed and written again
        (probed(valid="refused", logged=(Cause.WRONG_SECRET,)), [Cause.STALE_SECRET]),
        (probed(valid="refused", future="taken", logged=(Cause.CLOCK,), skew=None), [Cause.CLOCK]),
        (probed(valid="refused", future="taken", skew=None), [Cause.CLOCK]),  # without a log
        (probed(skew=-600), [Cause.CLOCK]),
        (probed(valid="refused", skew=None), [Cause.REFUSED]),
        (probed(valid="NewConnectionError", skew=None), [Cause.UNREACHABLE]),
        (probed(valid="HTTP 404", skew=None), [Cause.UNREACHABLE]),
        (probed(valid="HTTP 500", logged=(Cause.APP_ERROR,)), [Cause.APP_ERROR]),
        (probed(valid="ReadTimeoutError", skew=None), [Cause.SLOW]),
        (probed(wrong="taken"), [Cause.OPEN]),
    ],
    ids=lambda value: "+".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_answers_and_log_name_what_is_wrong(seen: Probed, causes: list[Cause]) -> None:
    assert seen.causes == causes


@pytest.mark.parametrize(
    ("stripe", "api", "agree", "says"),
    [
        (0, 59, True, ""),
        (-61, 0, False, "Stripe is ahead of this machine by -61 s: set it"),
        (0, -600, False, "the API is ahead of this machine by -600 s: set the clock that it runs by"),
        (None, 0, None, "Stripe did not say"),
        (None, 600, False, "the API is ahead"),
    ],
)
def test_clocks_agree_within_a_minute_and_the_one_that_is_off_is_named(
    stripe: float | None, api: float, agree: bool | None, says: str
) -> None:
    ahead = (None if stripe is None else Seconds(stripe), None, Seconds(api))
    answer = clock_skew.agree([Clock(name, seconds) for name, seconds in zip("abc", ahead, strict=True)])
    assert answer.ok is agree
    assert says in answer.otherwise


@pytest.mark.parametrize(
    ("times", "skew"),
    [([], None), ([10, 11, 19], 0), ([610, 619], 599.5), ([-590, -581], -600.5), ([9, 22], 0), ([32, 33], 17.5)],
)
def test_a_clock_is_off_by_what_its_times_lie_outside_of_ours(times: list[float], skew: float | None) -> None:
    assert clock_skew.measured(times, 10, 20) == skew


def test_a_secret_is_compared_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_text("whsec_right\n")
    held = {"STRIPE_WEBHOOK_SECRET": "whsec_wrong", "STRIPE_WEBHOOK_SECRET_PREVIOUS": "whsec_right"}
    rows = signature.compared(held, f"file:{file}")
    assert [row.endpoints_own for row in rows] == [True, False, True]
    assert "whsec" not in str(rows)
    assert [row.endpoints_own for row in signature.compared(held, "")] == [None] * 2
    well = Answer(True)
    assert signature.found(probed(), well, rows, [], []) == []  # the one before is accepted too
    assert signature.found(probed(), well, rows[:2], [], []) == [Cause.WRONG_SECRET]


def test_a_worker_that_no_probe_has_reached_is_named_unless_none_has_reached_any() -> None:
    workers = [Worker(number, pid, "online", "cluster", 0, 1, 1, None, True, []) for number, pid in enumerate((1, 2))]
    (one,) = signature.unasked(workers, probed(logged=(Cause.CLOCK,)))
    assert one.what.startswith("worker 1 was not asked")
    assert signature.unasked(workers, probed()) == []


def test_what_signs_is_what_webhook_makes() -> None:
    made = webhook_route.header("whsec_ours", b"{}", 299)
    assert webhook_route.holds(b"{}", made, "whsec_ours") and not webhook_route.holds(b"{}", made, "whsec_other")
    assert not webhook_route.holds(b"{}", webhook_route.header("whsec_ours", b"{}", 301), "whsec_ours")
