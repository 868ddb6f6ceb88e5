"""That tests of one engine are run by one process."""

import pytest


@pytest.mark.xdist_group("together")
def test_tests_of_a_group_stay_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist appends a group's name to the ids of its tests, by which it hands them out."""
    is_worker = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("@together") == (is_worker and request.config.option.loadgroup)
