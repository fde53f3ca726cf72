"""The ground of drills on an API that nobody has prepared."""

from collections.abc import Iterator

import pytest

from tests.sandbox.plain import deployment, fault


@pytest.fixture(scope="module")
def plain(sandbox: None) -> Iterator[None]:
    """The plain stand-in in fork mode."""
    deployment.stop()
    deployment.start()
    yield
    deployment.stop()


@pytest.fixture
def mended(plain: None) -> Iterator[None]:
    """The plain stand-in, which is mended afterwards."""
    yield
    fault.mend()
