"""A replay: the events that the API has not, sent again in the order in which they were made, each once.

What has been taken is read from the API's own database before and after each, so that a replay that was killed is run
again and goes on. By Stripe, which signs and counts; or from here, signed with the secret in force, where Stripe does
not send any more: Stripe then goes on counting the event as undelivered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal
from urllib.parse import quote

from stripe import StripeClient, WebhookEndpoint

from opslib.api import log
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.payments import trace as traces, webhook
from opslib.payments.delivery import BATCH, SHOWN, TAKEN, Deliveries, Event
from opslib.payments.stripe_account import said
from opslib.payments.trace import moment
from opslib.runbook.act import act
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, UndoFailed

Way = Literal["stripe", "local"]
WITHIN = 10
"""Seconds in which an event that was sent again is in the database, or the log says why it is not."""


@dataclass
class Replay:
    """One replay of at most `most` events; `skip` refused ones are left out, one more stops it."""

    environment: Deployment
    stripe: StripeClient
    target: WebhookEndpoint
    database: Connection
    workers: Sequence[Worker]
    found: Deliveries
    way: Way
    secret: str = field(repr=False)
    skip: int = 0
    most: int = 1000
    taken: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._size = sum(1 for _ in self.found.due(self.most))
        self._digest = self.found.digest(self.most)
        self._marks: list[Position] = []

    @property
    def rows(self) -> list[dict[str, str]]:
        """The events to replay, in their order; of many the first ones and how many more there are."""
        shown = [event.row for event in self.found.due(min(self.most, SHOWN))]
        more = self._size - len(shown)
        return [*shown, *([{"made": "…", "event": f"and {more} more, in order"}] if more > 0 else [])]

    def change(self) -> Change:
        """Make the change that sends them."""
        call = f"POST /v1/events/EVENT/retry webhook_endpoint={self.target.id}, as `stripe events resend` does"
        if self.way == "local":
            call = "GET /v1/events/EVENT; POST its body to the API's route, signed now with the secret in force"
        return Change(
            f"Replay {self._size} events" if self._size != 1 else "Replay 1 event",
            [
                act(
                    f"for each, oldest first, unless webhook_events has it: {call}",
                    f"refused and left out: ≤ {self.skip}",
                    run=self._do,
                )
            ],
            undo=[act("nothing: an event that was taken stays taken; run again to go on", run=self._undo)],
            replaces=lambda: f"{self._size} events, digest of their ids {self._digest}",
        )

    def compared(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether the database has each event that was taken, and Stripe counts none of them as undelivered."""
        held = 0
        names = self.found.marked("taken")
        while batch := list(islice(names, BATCH)):
            held += len(self.database.execute(TAKEN, [batch]).fetchall())
        pending = self.found.pending(self.stripe) if self.way == "stripe" else 0
        row = {"sent again and taken": str(self.taken), "of these in the database": str(held)}
        row |= {"of these undelivered at Stripe": str(pending) if self.way == "stripe" else "not asked, sent from here"}
        row |= {"refused and left out": str(len(self.refused)), "left for another run": str(self._left)}
        return held == self.taken and not pending, [row]

    @property
    def _left(self) -> int:
        return self.found.left - len(self.refused)

    def _do(self) -> None:
        self._mark()
        for event in self.found.due(self.most):
            why = "" if self._has(event.id) else self._send(event)
            self.found.mark(event.id, "refused" if why else "taken")
            if not why:
                self.taken += 1
                continue
            self.refused.append({"event": event.id, "type": event.type, "object": event.object, "reason": why})
            self._mark()
            if len(self.refused) > self.skip:
                raise ChangeFailed(
                    f"the API refused {event.id}, made at {moment(event.created)}: {why.splitlines()[0]}. Mend the "
                    f"cause and run again, or leave out up to so many: -p skip_refused {len(self.refused)}",
                    self.refused,
                )

    def _undo(self) -> None:
        if self.taken:
            raise UndoFailed(f"{self.taken} events were sent again and taken, and stay so. Run again to go on.")

    def _send(self, event: Event) -> str:
        """Send an event; give why the API refused it, or nothing. Raise ChangeFailed if it could not be sent."""
        if self.way == "stripe":
            if problem := webhook.resend(self.stripe, event.id, self.target.id):
                raise ChangeFailed(problem)
            answer = ""
        else:
            body, problem = said(self._body(event.id))
            if body is None:
                raise ChangeFailed(f"{event.id} is not known: {problem}. Run again when Stripe answers.")
            answer = webhook.send(self.environment, body, webhook.header(self.secret, body))
        ends = time.monotonic() + WITHIN
        while not self._has(event.id):
            failures = [trace for trace in traces.read(self.environment, self._marks) if trace.cause]
            if failures and not self._has(event.id):
                return f"{failures[-1].cause}: {failures[-1].said}"
            if time.monotonic() > ends or answer not in ("", "taken", "refused", "HTTP 500"):
                return f"{answer or 'not in the database'}, and the API's log has no error of it"
            time.sleep(0.05)
        return ""

    def _body(self, event: str) -> Callable[[], bytes]:
        return lambda: self.stripe.raw_request("get", f"/v1/events/{quote(event, safe='')}").body.encode()

    def _has(self, event: str) -> bool:
        return self.database.execute(TAKEN, [[event]]).fetchone() is not None

    def _mark(self) -> None:
        self._marks = log.mark(position.path for worker in self.workers for position in worker.logs)
