"""Access keys: those of the API's IAM user, how far their rotation is, and how one is made so that none gets lost.

A secret is shown once, in the answer to CreateAccessKey. So what is written before and after that call decides what a
run that is killed leaves behind: a note of the keys there were, the call, the whole pair. A key that no note and no
pair accounts for is somebody else's, and is never touched.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError

from opslib.aws import aws
from opslib.aws.key_pair import ID, SECRET, Pair, StagedPair, short
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, Later, call
from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located

LIMIT = 2
"""How many access keys AWS lets an IAM user have."""
CONSISTENT = 10
"""Seconds for which IAM is asked about a key that it may not list yet."""
LOST_WITHIN = timedelta(minutes=2)
"""How long after the note a key may have been made to count as the one that was asked for."""
THROTTLED = ("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException")


@dataclass(frozen=True)
class Key:
    """One access key as IAM tells of it; `used` is None if it never was, `service` what it was last used for."""

    id: str = field(repr=False)
    status: str
    created: datetime
    used: datetime | None
    service: str


class AccessKeys:
    """The access keys of the API's IAM user; of an S3 of another maker, the pairs that are known here."""

    def __init__(self, environment: Deployment) -> None:
        self.environment = environment
        self.settings = aws.settings(environment)
        self.staged = StagedPair(environment)
        self.maker = aws.other_maker(environment)
        """The address of another maker's S3, where there is no IAM to ask; empty at AWS."""

    @cached_property
    def _administrator(self) -> Pair:
        if self.maker:
            raise RunbookError(f"there is no IAM at {self.maker}: see about its keys in its console")
        return aws.administrator(self.environment)

    @cached_property
    def _iam(self) -> Any:
        return aws.client(self.environment, "iam", self._administrator)

    @cached_property
    def _once(self) -> Any:
        # A second attempt of this call could make a second key.
        return aws.client(self.environment, "iam", self._administrator, attempts=1)

    @cached_property
    def arn(self) -> str:
        """The ARN of the user; empty where there is no IAM."""
        if self.maker:
            return ""
        with aws.asking("IAM GetUser"):
            return str(self._iam.get_user(UserName=self.settings.user)["User"]["Arn"])

    @cached_property
    def caller(self) -> str:
        """The ARN of whoever changes the keys."""
        with aws.asking("STS GetCallerIdentity"):
            return str(aws.client(self.environment, "sts", self._administrator).get_caller_identity()["Arn"])

    @property
    def pair(self) -> Pair:
        """The pair that is to serve: the one to come if there is one, else the one in force."""
        found = self.staged.pending or self.staged.current
        if found is None:
            raise RunbookError(
                f"{located(self.environment.api.env_file)} has no {ID} with its {SECRET}: put them there"
            )
        return found

    @property
    def old(self) -> Pair:
        """The pair that a rotation has left behind. Raise RunbookError if there is none."""
        if (found := self.staged.previous) is None:
            raise RunbookError("no rotation has left an old key behind")
        return found

    def listed(self) -> list[Key]:
        """Ask IAM for the user's keys, the oldest first."""
        return self._list()[1]

    def rows(self, keys: Sequence[Key] | None = None) -> list[dict[str, str]]:
        """Rows of evidence, without a whole id."""
        return [
            {
                "key": short(key.id),
                "is": self._role(key),
                "status": key.status,
                "created": utc(key.created),
                "last used": f"{utc(key.used)} for {key.service}" if key.used else "never",
            }
            for key in (self.listed() if keys is None else keys)
        ]

    def describe(self) -> str:
        """Say which keys there are, but for one that got lost: what a change replaces."""
        if self.maker:
            return f"{self.staged.current} (in force)"
        lost = {key.id for key in self.lost()}
        return ", ".join(f"{short(k.id)} {k.status} ({self._role(k)})" for k in self.listed() if k.id not in lost)

    def lost(self) -> list[Key]:
        """Give the key that was made for us and whose secret got lost on the way, if it is certain that there is one.

        It was made within two minutes of our note, is neither among the keys of that note nor staged, and was never
        used.
        """
        asked, ours = self.staged.asked, self._roles()
        if asked is None:
            return []
        return [
            key
            for key in self.listed()
            if key.id not in (*asked.known, *ours)
            and key.used is None
            and asked.at <= key.created <= asked.at + LOST_WITHIN
        ]

    def given(self) -> Pair:
        """Give the pair that was made in another maker's console; what a killed run has staged serves as well."""
        return self.staged.pending or aws.new_pair(self.environment)

    # What acts

    def make(self) -> None:
        """Have a pair staged that IAM knows: the one that is there already, else a new one; or that which was given."""
        if self.maker:
            self.staged.stage(self.given())
            return
        self.settle()
        if pending := self.staged.pending:
            if self._await(lambda: pending.id in (key.id for key in self.listed())):
                return
            self.staged.discard()
        pause = 1.0
        while True:
            at, keys = self._list()
            if len(keys) >= LIMIT:
                raise RunbookError(f"the user has {len(keys)} keys by now, and AWS allows {LIMIT}. Run the plan again.")
            # A call before this one may still turn out to have made a key: its note is kept.
            doubt = self.staged.asked
            self.staged.ask(doubt.at if doubt else at, doubt.known if doubt else [key.id for key in keys])
            try:
                made = self._once.create_access_key(UserName=self.settings.user)["AccessKey"]
                self.staged.stage(Pair(made["AccessKeyId"], made["SecretAccessKey"]))
                return
            except (BotoCoreError, ClientError) as error:
                if _not_done(error) and not doubt:
                    self.staged.answered()
                else:
                    self.settle()
                throttled = aws.said(error) in THROTTLED
                if pause > (16 if throttled else 2) or (_not_done(error) and not throttled and not doubt):
                    raise RunbookError(
                        f"IAM CreateAccessKey: {aws.said(error)}. IAM lists no new key; see whether AWS is well."
                    ) from error
            time.sleep(pause)
            pause *= 2

    def settle(self) -> None:
        """Delete the key that an unanswered call has made, if IAM lists one; two minutes later there is none."""
        asked = self.staged.asked
        if asked is None:
            return
        over = datetime.now(UTC) - asked.at > LOST_WITHIN
        if not over:
            self._await(self.lost)
        for key in (lost := self.lost()):
            self.deletion(key.id).run()
        if lost or over:
            self.staged.answered()

    def turning(self, id: str, status: str) -> Act:
        """Make the act by which a key becomes Active or Inactive."""

        def update(**named: str) -> None:
            with aws.asking("IAM UpdateAccessKey"):
                self._iam.update_access_key(**named)

        return call("iam.update_access_key", update, **self._named(id), Status=status)

    def deletion(self, id: str) -> Act:
        """Make the act that deletes a key; well if there is none of this id."""

        def delete(**named: str) -> None:
            with aws.asking("IAM DeleteAccessKey"), suppress(self._iam.exceptions.NoSuchEntityException):
                self._iam.delete_access_key(**named)

        return call("iam.delete_access_key", delete, **self._named(id))

    def _named(self, id: str) -> dict[str, Any]:
        return {"UserName": self.settings.user, "AccessKeyId": Later(short(id), lambda: id)}

    def _list(self) -> tuple[datetime, list[Key]]:
        with aws.asking("IAM ListAccessKeys"):
            answer = self._iam.list_access_keys(UserName=self.settings.user)
        at = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return at, sorted(map(self._key, answer["AccessKeyMetadata"]), key=lambda key: key.created)

    def _key(self, one: Mapping[str, Any]) -> Key:
        with aws.asking("IAM GetAccessKeyLastUsed"):
            last = self._iam.get_access_key_last_used(AccessKeyId=one["AccessKeyId"]).get("AccessKeyLastUsed", {})
        mask.add(ID, one["AccessKeyId"])
        return Key(
            one["AccessKeyId"], one["Status"], one["CreateDate"], last.get("LastUsedDate"), last.get("ServiceName", "")
        )

    def _await(self, question: Callable[[], object]) -> bool:
        ends = time.monotonic() + CONSISTENT
        while not question():
            if time.monotonic() > ends:
                return False
            time.sleep(1)
        return True

    def _roles(self) -> dict[str, str]:
        named = {"before": self.staged.previous, "to come": self.staged.pending, "in force": self.staged.current}
        return {pair.id: role for role, pair in named.items() if pair}

    def _role(self, key: Key) -> str:
        return self._roles().get(key.id) or ("lost" if key.id in (one.id for one in self.lost()) else "not ours")


def _not_done(error: Exception) -> bool:
    """Whether it is certain that AWS did not carry out the call: it said so, or was never reached."""
    if isinstance(error, ClientError):
        return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] < 500)
    return isinstance(error, EndpointConnectionError | ConnectTimeoutError)


def utc(time: datetime) -> str:
    """Give a time as this project writes it, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
