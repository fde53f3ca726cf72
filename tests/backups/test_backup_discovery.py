"""Where backups are found: by what lies in buckets, as far as the credentials let anybody see."""

import json
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.aws import aws
from opslib.aws.key_pair import Pair
from opslib.backups import backup, discovery
from opslib.backups.backup import Backup
from opslib.backups.discovery import Where
from opslib.backups.manifest import Manifest
from opslib.backups.settings import Backups
from opslib.backups.store import MANIFEST, Bucket
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.propertypulse import PropertyPulse
from tests.sandbox.credentials import BACKUP_BUCKET, BUCKET, Credentials, write_private
from tests.sandbox.layout import DOTENV

pytestmark = pytest.mark.usefixtures("sandbox", "empty")

NEW = datetime(2030, 1, 31, tzinfo=UTC)
Found = Mapping[str, Line | Asked]
Put = Callable[[str, str], None]


@pytest.fixture(scope="module")
def s3() -> Any:
    """Asks as the administrator."""
    env = propertypulse.load("sandbox")
    assert env.backups
    pair = aws.credentials(env.backups.credentials, "backups.credentials", "BACKUP_CREDENTIALS")
    return aws.client(env, "s3", pair, where=env.backups)


@pytest.fixture(scope="module")
def empty(s3: Any) -> Iterator[None]:
    """No backup lies in the bucket meanwhile, where other tests have left some."""
    here = [{"Bucket": BACKUP_BUCKET, "Key": one["Key"]}
            for one in s3.list_objects_v2(Bucket=BACKUP_BUCKET).get("Contents", [])]  # fmt: skip
    kept = [(one, s3.get_object(**one)["Body"].read()) for one in here]
    for one in here:
        s3.delete_object(**one)
    yield
    for one, content in kept:
        s3.put_object(**one, Body=content)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS itself is not asked: there nothing answers."""
    real = aws.client

    def client(environment: Deployment, service: str, pair: Pair, *, where: Any, **options: Any) -> Any:
        there = where if where.endpoint else Where(where.region, "http://127.0.0.1:9")
        return real(environment, service, pair, where=there, **options)

    monkeypatch.setattr(aws, "client", client)


@pytest.fixture
def put(s3: Any) -> Iterator[Put]:
    """Have an object in a bucket."""
    made = []

    def one(bucket: str, key: str) -> None:
        made.append((bucket, key))
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    yield one
    for bucket, key in made:
        s3.delete_object(Bucket=bucket, Key=key)


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The stand-in before anybody has asked S3, with an `.env` and a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    known: Deployment = propertypulse.load("sandbox")
    (tmp_path / ".env").write_bytes(DOTENV.read_bytes())
    api = known.api.model_copy(update={"env_file": tmp_path / ".env"})
    return known.model_copy(update={"backups": None, "s3": None, "api": api})


def found(env: Deployment, id: str = "", secret: str = "", **given: str) -> Found:
    """What is found with these credentials, or the administrator's."""
    known, file = Credentials.load(), env.api.env_file.parent / "aws.json"
    id, secret = id or known.aws_admin_access_key_id, secret or known.aws_admin_secret_access_key
    write_private(file, json.dumps({"AccessKeyId": id, "SecretAccessKey": secret}))
    named = {"credentials": f"file:{file}"} | given
    said = list(discovery.discover(env, {f"backups.{key}": value for key, value in named.items()}))
    assert len({one.key for one in said}) == len(said)
    assert not [one for one in said if secret in str(one) or known.database_password in str(one)]
    return {one.key.removeprefix("backups."): one for one in said}


def values(said: Found) -> dict[str, object]:
    return {key: one.value for key, one in said.items() if isinstance(one, Line)}


def asked(one: Line | Asked) -> str:
    assert isinstance(one, Asked), one
    return one.what


ENDPOINT = {"endpoint": "http://127.0.0.1:25001"}
PLACE = ENDPOINT | {"bucket": BACKUP_BUCKET, "region": "us-east-1"}


def test_dumps_tell_the_bucket_and_the_folder_without_its_dates(env: Deployment, put: Put) -> None:
    put(BACKUP_BUCKET, "daily/2026-11-27/propertypulse.sql.gz")
    put(BACKUP_BUCKET, "daily/2026-11-28/propertypulse.sql.gz")
    put(BUCKET, "leases/2026/contract.pdf")
    assert values(found(env)) == PLACE | {"prefix": "daily"}


def test_two_places_with_dumps_are_both_named(env: Deployment, put: Put) -> None:
    put(BACKUP_BUCKET, "daily/a.dump")
    put(BACKUP_BUCKET, "weekly/a.dump")
    said = found(env)
    assert values(said) == PLACE
    assert f"s3://{BACKUP_BUCKET}/daily, s3://{BACKUP_BUCKET}/weekly" in asked(said["prefix"])
    put(BUCKET, "old/a.sql")
    said = found(env)
    assert values(said) == ENDPOINT and f"s3://{BUCKET}/old" in asked(said["bucket"])


def test_a_name_alone_is_no_proof(env: Deployment) -> None:
    said = found(env)
    assert values(said) == ENDPOINT
    assert isinstance(said["bucket"], Asked) and said["bucket"].example == BACKUP_BUCKET
    assert values(found(env, bucket=BACKUP_BUCKET)) == ENDPOINT | {"region": "us-east-1"}


@pytest.mark.parametrize(("database", "prefix"), [("propertypulse", "ours/deep"), ("another", "daily")])
def test_backups_of_this_database_go_before_dumps_and_others_do_not(
    env: Deployment, put: Put, s3: Any, database: str, prefix: str
) -> None:
    known: PropertyPulse = propertypulse.load("sandbox")
    assert known.backups
    part: Backups = known.backups.model_copy(update={"prefix": "ours/deep"})
    place = Bucket(known.model_copy(update={"backups": part}))
    about = Manifest(NEW, "18", database, "app", "", "0/0", "UTF8", "C", "C", "c", None, (), (), ())
    one = Backup("20300131T000000Z-0123abcd-01234567", NEW, 1, "0" * 64, 1, about)
    put(BACKUP_BUCKET, "daily/a.dump")
    put(BACKUP_BUCKET, place.key(one.name + MANIFEST))
    backup.write(one, place)
    assert values(found(env)) == PLACE | {"prefix": prefix}


def test_credentials_that_see_no_buckets_are_said(env: Deployment) -> None:
    held = env_file.read(env.api.env_file)  # those in force, whatever has rotated before
    said = found(env, held["AWS_ACCESS_KEY_ID"], held["AWS_SECRET_ACCESS_KEY"])
    assert values(said) == ENDPOINT and "AccessDenied" in asked(said["bucket"])


def test_credentials_of_nobody_are_said_of_each_s3(env: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(env, "AKIANOBODY", secrets.token_hex(20))
    assert not values(said)
    assert "S3 at http://127.0.0.1:25001 did not list its buckets: InvalidAccessKeyId. S3 at AWS" in asked(
        said["bucket"]
    )


@pytest.mark.parametrize("address", ["127.0.0.1:25001", "http://user:x@127.0.0.1:25001"])
def test_an_address_that_is_none_is_not_asked(env: Deployment, address: str) -> None:
    env_file.edit(env.api.env_file, {"S3_ENDPOINT": address}, backup=False)
    assert "S3 at AWS" in asked(found(env)["bucket"])


def test_where_s3_is_down_it_says_so_even_of_a_bucket_that_was_named(env: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    env_file.edit(env.api.env_file, {"S3_ENDPOINT": f"http://127.0.0.1:{port}"}, backup=False)
    said = found(env, bucket=BACKUP_BUCKET)
    assert not values(said) and "EndpointConnectionError" in asked(said["region"])


def test_without_credentials_they_are_asked_for_and_found_where_they_were_asked(env: Deployment, put: Put) -> None:
    put(BACKUP_BUCKET, "daily/a.dump")
    said = {one.key: one for one in discovery.discover(env, {})}
    missing = said["backups.credentials"]
    assert isinstance(missing, Asked) and missing.example == "file:~/.runbook/sandbox/backups.json"
    assert {"backups.folder", "backups.bucket", "backups.region"} <= {*said}
    found(env)  # writes them
    place = env.api.env_file.parent / ".runbook/sandbox/backups.json"
    place.parent.mkdir(parents=True)
    (env.api.env_file.parent / "aws.json").rename(place)
    lines = {one.key: one.value for one in discovery.discover(env, {}) if isinstance(one, Line)}
    assert lines["backups.credentials"] == missing.example and lines["backups.bucket"] == BACKUP_BUCKET


def test_a_folder_is_asked_for_with_what_there_is_room_for(env: Deployment) -> None:
    said = asked(found(env)["folder"])
    assert "The database has" in said and " free)" in said
    env_file.edit(env.api.env_file, {"DATABASE_URL": "postgresql://a:b@127.0.0.1:9/x"}, backup=False)
    assert "is not known" in asked(found(env)["folder"])
