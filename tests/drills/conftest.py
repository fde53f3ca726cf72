"""The ground of drills on an API that nobody has prepared."""

from collections.abc import Iterator

import pytest

from tests.sandbox.plain import fault


@pytest.fixture
def mended(plain: None) -> Iterator[None]:
    """The plain stand-in, which is mended afterwards."""
    yield
    fault.mend()
