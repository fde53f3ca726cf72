"""References to secrets: found, refused, and never repeated in an error."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from opslib.deployment import secret_reference
from opslib.runbook.errors import BadParameter
from opslib.runbook.mask import mask

VALUE = "correct horse battery staple"


def test_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW_KEY", VALUE)
    assert secret_reference.resolve("env:NEW_KEY", "STRIPE_SECRET_KEY") == VALUE
    assert VALUE not in mask.text(f"it is {VALUE}!")


def test_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{VALUE}\n")
    file.chmod(0o600)
    assert secret_reference.resolve(f"file:{file}", "KEY") == VALUE
    file.chmod(0o640)
    with pytest.raises(BadParameter, match="mode 0640, expected 0600"):
        secret_reference.resolve(f"file:{file}", "KEY")


def test_relative_file_starts_where_parameters_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    (tmp_path / "key").write_text(VALUE)
    (tmp_path / "key").chmod(0o600)
    assert secret_reference.resolve("file:key", "KEY") == VALUE


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield


@pytest.mark.usefixtures("manager")
def test_secrets_manager() -> None:
    boto3.client("secretsmanager").create_secret(Name="new-key", SecretString=VALUE)
    assert secret_reference.resolve("aws:new-key", "KEY") == VALUE
    with pytest.raises(BadParameter, match="did not give other-key"):
        secret_reference.resolve("aws:other-key", "KEY")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("env:NOT_SET_ANYWHERE", "is not set"),
        ("file:/nowhere/at/all", "No such file"),
        ("file:/", "not a file"),
        ("env:", "expected a reference"),
        (VALUE, "expected a reference"),
        ("sk_live_" + "x" * 24, "expected a reference"),
        ("", "expected a reference"),
    ],
)
def test_what_is_no_reference_is_refused_and_not_repeated(given: str, said: str) -> None:
    with pytest.raises(BadParameter, match=said) as raised:
        secret_reference.resolve(given, "KEY")
    assert VALUE not in str(raised.value)
    assert "sk_live_" not in str(raised.value)


def test_empty_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_KEY", "")
    with pytest.raises(BadParameter, match="is empty"):
        secret_reference.resolve("env:EMPTY_KEY", "KEY")


def test_nobody_is_asked_in_a_headless_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSLIB_RECORD", "somewhere")
    with pytest.raises(BadParameter, match="nobody is there to ask"):
        secret_reference.resolve("ask:", "KEY")


def test_a_person_is_asked_in_a_password_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPSLIB_RECORD", raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: VALUE if prompt == "KEY: " else "")
    assert secret_reference.resolve("ask:", "KEY") == VALUE
