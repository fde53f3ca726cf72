"""What is found of uploads, on both stand-ins: each value as the environment's file has it, and no secret."""

from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.aws import discovery
from opslib.aws.key_pair import ID, SECRET
from opslib.propertypulse import PropertyPulse
from opslib.runbook.procedure import root
from tests.aws_front import Front
from tests.found import asked, bare, leaked, lines, other, wrong

pytestmark = pytest.mark.usefixtures("plain")

ADMINISTRATOR = {"s3.administrator": f"file:{root()}/tests/sandbox/state/admin/aws.json"}
CODE = {f"s3.{key}" for key in ("presigned", "signing.route", "signing.url", "signing.key", "signing.sign_in.token")}
HERE = {f"s3.{key}" for key in ("bucket", "region", "endpoint", "user")}


@pytest.fixture
def sandbox_env() -> PropertyPulse:
    return bare(propertypulse.load("sandbox"))


@pytest.mark.parametrize(
    ("name", "more", "left"),
    [
        ("sandbox", {"s3.endpoint_key", "s3.iam", "s3.signing.sign_in.url"}, set()),
        # Where the .env names another host than Google's, where a person signs in is not known.
        ("plain", {"s3.endpoint_key", "s3.signing.sign_in.body"}, {"s3.signing.sign_in.url"}),
    ],
)
def test_each_value_that_is_found_is_right(name: str, more: set[str], left: set[str]) -> None:
    known = propertypulse.load(name)
    found = [*discovery.discover(bare(known), ADMINISTRATOR)]
    assert wrong(known, found) == {} and leaked(known, found) == []
    assert {*lines(found)} == HERE | CODE | more | {"s3.administrator"}
    assert {*asked(found)} == {"s3.signing.body", "s3.other_bucket", "s3.login"} | left
    assert "propertypulse-backups" in asked(found)["s3.other_bucket"].what
    without = [*discovery.discover(bare(known), {})]
    assert asked(without)["s3.administrator"].example == f"file:~/.runbook/{name}/aws.json"
    assert lines(without) | ADMINISTRATOR == lines(found)


@pytest.mark.parametrize("values", [{SECRET: "wrong" * 8}, {ID: "AKIAWRONGWRONGWRONG0"}])
def test_a_key_that_is_refused_is_said_to_be(
    sandbox_env: PropertyPulse, tmp_path: Path, values: dict[str, str]
) -> None:
    env = other(sandbox_env, tmp_path, values)
    found = [*discovery.discover(env, {})]
    assert {*lines(found)} & {*HERE, "s3.iam"} == set() and leaked(env, found) == []
    assert "the API's key is refused" in asked(found)["s3.bucket"].what
    assert asked(found)["s3.bucket"].example == "propertypulse-uploads"


@pytest.mark.parametrize(("name", "key"), [("sandbox", "S3_ENDPOINT"), ("plain", "AWS_ENDPOINT_URL")])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "minio:9000"])
def test_a_server_that_is_down_or_nowhere_is_said_to_be(name: str, key: str, address: str, tmp_path: Path) -> None:
    found = [*discovery.discover(other(bare(propertypulse.load(name)), tmp_path, {key: address}), ADMINISTRATOR)]
    assert {*lines(found)} & {*HERE, "s3.iam", "s3.administrator"} == set()
    assert address in asked(found)["s3.region"].what


def test_where_nobody_knows_of_keys_it_is_another_maker_s(sandbox_env: PropertyPulse, tmp_path: Path) -> None:
    with Front() as front:
        front.fail("GetCallerIdentity", "denied", times=9)
        found = [*discovery.discover(other(sandbox_env, tmp_path, {"S3_ENDPOINT": front.url}), {})]
    assert lines(found).items() >= {"s3.bucket": "propertypulse-uploads", "s3.endpoint_key": "S3_ENDPOINT"}.items()
    assert lines(found)["s3.iam"] is False and "s3.endpoint" not in lines(found)
    assert "has no STS" in asked(found)["s3.user"].what
    assert asked(found)["s3.new_pair"].example and "s3.administrator" not in asked(found)


def test_two_values_are_for_a_person_to_choose_from(sandbox_env: PropertyPulse, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "s3.js").write_text("const bucket = process.env.AWS_S3_BUCKET || process.env.S3_BUCKET || 'none';\n")
    env = other(sandbox_env, tmp_path, {"AWS_S3_BUCKET": "elsewhere"})
    env = env.model_copy(update={"api": env.api.model_copy(update={"release": code})})
    one = asked(discovery.discover(env, {}))["s3.bucket"]
    assert "S3_BUCKET of the .env says propertypulse-uploads" in one.what and "says elsewhere" in one.what


def test_an_administrator_who_may_not_is_told(sandbox_env: PropertyPulse) -> None:
    found = [*discovery.discover(sandbox_env, {"s3.administrator": "file:tests/sandbox/state/admin/login.json"})]
    assert "not JSON with AccessKeyId" in asked(found)["s3.administrator"].what


def test_without_a_key_there_is_nothing_to_say(sandbox_env: PropertyPulse, tmp_path: Path) -> None:
    assert [*discovery.discover(other(sandbox_env, tmp_path, {ID: None}), {})] == []
