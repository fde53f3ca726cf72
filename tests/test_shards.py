"""How tests are spread over the shards."""

import pytest


def test_a_shard_takes_the_whole_of_a_file(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there are no shards here")
    assert request.node.nodeid.endswith("@test_shards.py")
