"""A replay: the events that the API has not, sent again in the order in which they were made, each once.

What has been taken is asked of the API's own database before and after each, so that a replay that was killed is run
again and goes on. By Stripe, which signs and counts; or from here, signed with the secret in force, where Stripe does
not send any more: Stripe then goes on counting the event as undelivered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from stripe import StripeClient, WebhookEndpoint

from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.deployment.deployment import Deployment
from opslib.payments import delivery_trace, event as events, webhook_route
from opslib.payments.delivery import Deliveries, Event
from opslib.payments.reception import Reception
from opslib.payments.stripe_account import ask
from opslib.runbook.act import act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, UndoFailed

Way = Literal["stripe", "here"]
WITHIN = 10
"""Seconds in which an event that was sent again is in the database, or the log says why it is not."""


@dataclass
class Replay:
    """One replay of at most `most` events; `skip` refused ones are left out, one more stops it."""

    environment: Deployment
    stripe: StripeClient
    target: WebhookEndpoint
    reception: Reception
    workers: Sequence[Worker]
    found: Deliveries
    way: Way
    secret: str = field(repr=False)
    skip: int = 0
    most: int = 1000
    taken: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._due = self.found.missing[: self.most]
        self._marks: list[Position] = []

    def changes(self) -> list[Change]:
        """Make the change that sends them; none where there is none to send."""
        if not self._due:
            return []
        how = {
            "stripe": f"{events.resend(self.stripe, '‹event›', self.target).shown}, as `stripe events resend` does",
            "here": f"POST {webhook_route.url(self.environment)} with its body, signed now with the secret in force",
        }
        size = len(self._due)
        shown = f"for each, oldest first, unless {self.reception.unless}: {how[self.way]}"
        return [
            Change(
                f"Replay {size} event{'s' * (size != 1)}",
                [act(shown, f"refused and left out: ≤ {self.skip}", run=self._do)],
                undo=[act("nothing: an event that was taken stays taken; run again to go on", run=self._undo)],
                replaces=lambda: f"{size} events, digest of their ids {self.found.digest(self.most)}",
            )
        ]

    def compared(self) -> Answer:
        """Whether the database has each event that was taken, and Stripe counts none of them as undelivered."""
        held = sum(self._has(event, webhook_route.TAKEN) for event in self._due if event.event in {*self.taken})
        row: dict[str, object] = {"sent again and taken": len(self.taken), "of these in the database": held}
        pending = self.found.pending(self.stripe) & {*self.taken} if self.way == "stripe" else set()
        row |= {"of these undelivered at Stripe": len(pending)} if self.way == "stripe" else {}
        row |= {"refused and left out": len(self.refused), "left for another run": self.left}
        return Answer(held == len(self.taken) and not pending, row)

    @property
    def left(self) -> int:
        """How many of the events that were found missing are still to be sent again."""
        return len(self.found.missing) - len(self.taken) - len(self.refused)

    def _do(self) -> None:
        self.taken.clear()
        self.refused.clear()
        self._mark()
        for event in self._due:
            why = "" if self._has(event) else self._send(event)
            if not why:
                self.taken.append(event.event)
                continue
            self.refused.append({"event": event.event, "type": event.type, "object": event.object, "reason": why})
            self._mark()
            if len(self.refused) > self.skip:
                raise ChangeFailed(
                    f"the API refused {event.event}, made at {event.made:%Y-%m-%dT%H:%M:%SZ}: {why.splitlines()[0]}. "
                    f"Mend the cause and run again, or leave out up to so many: -p skip_refused {len(self.refused)}",
                    self.refused,
                )

    def _undo(self) -> None:
        if self.taken:
            raise UndoFailed(f"{len(self.taken)} events were sent again and taken, and stay so. Run again to go on.")

    def _send(self, event: Event) -> str:
        """Send an event; give why the API refused it, or nothing. Raise ChangeFailed if it could not be sent."""
        answer = self._from_here(event) if self.way == "here" else ""
        if self.way == "stripe":
            events.resend(self.stripe, event.event, self.target).run()
        ends = time.monotonic() + WITHIN
        missing = "not in the database" if self.reception.noted else "neither Stripe nor its payment says it was taken"
        while not self._has(event, answer):
            failures = [trace for trace in delivery_trace.read(self.environment, self._marks) if trace.cause]
            if failures and not self._has(event, answer):
                return f"{failures[-1].cause}: {failures[-1].said}"
            if time.monotonic() > ends or answer not in ("", webhook_route.TAKEN, webhook_route.REFUSED, "HTTP 500"):
                logs = delivery_trace.beginnings(self.environment, self.workers)
                told = delivery_trace.legible(self.environment, logs)
                said = f". {told.otherwise}" if told.otherwise else ", and the API's log has no error of it"
                return f"{answer or missing}{said}"
            time.sleep(0.05)
        return ""

    def _from_here(self, event: Event) -> str:
        body, problem = ask(self._body(event.event))
        if body is None:
            raise ChangeFailed(f"{event.event} is not known: {problem}. Run again when Stripe answers.")
        return webhook_route.send(self.environment, body, webhook_route.header(self.secret, body))

    def _body(self, event: str) -> Callable[[], bytes]:
        return lambda: self.stripe.raw_request("get", f"/v1/events/{quote(event, safe='')}").body.encode()

    def _has(self, event: Event, answer: str = "") -> bool:
        """Whether the API has it; `answer` is what it said to one from here, which Stripe goes on sending."""
        if self.reception.noted:
            return bool(self.reception.taken([event.event]))
        sent = answer != webhook_route.TAKEN if self.way == "here" else self._undelivered(event)
        state = self.reception.states([event.object]).get(event.object, "")
        return self.reception.has(event.type, noted=False, sent=sent, state=state)

    def _undelivered(self, event: Event) -> bool:
        found, problem = ask(lambda: self.stripe.v1.events.retrieve(event.event))
        if found is None:
            raise ChangeFailed(f"{event.event} is not known: {problem}. Run again when Stripe answers.")
        return found.pending_webhooks > 0

    def _mark(self) -> None:
        self._marks = delivery_trace.mark(self.environment, self.workers)
