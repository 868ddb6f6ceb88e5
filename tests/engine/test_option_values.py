"""Each option of the built-in drivers with each value, through both: what one takes the other does, or has a reason."""

from __future__ import annotations

import json

import pytest

from tests.engine.lab import Lab
from tests.lab.unix import UnixConnection
from tests.option_values import UPLINK, VALUES, Value


def refusal(lab: Lab, driver: str, options: dict[str, str]) -> str:
    """Make a network and remove it again, if that can be; returns why not.

    By the engine's API, since clients take long to start.
    """
    connection = UnixConnection(lab.engine.socket, 60)
    try:
        body = json.dumps({"Name": "values", "Driver": driver, "Options": options})
        connection.request("POST", "/networks/create", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read().decode()
        if response.status != 201:
            return said
        connection.request("DELETE", "/networks/values")
        assert connection.getresponse().status == 204
        return ""
    finally:
        connection.close()


def named(value: Value) -> tuple[str, str]:
    """Tell which option of which driver a value is of."""
    return value.driver, next(iter(value.options))


#: Not every kernel has ipvlan, nor the dummy links and VLANs that some parents stand for.
COMPARED = [one for one in VALUES if one.driver != "ipvlan" and "parent" not in one.options]


@pytest.mark.parametrize("option", dict.fromkeys(map(named, COMPARED)), ids=" ".join)
@pytest.mark.once
def test_options_are_taken_as_the_built_in_takes_them(lab: Lab, option: tuple[str, str]) -> None:
    """What is refused though the built-in takes it stands in the table with its reason."""
    if not lab.engine.version.startswith("28."):
        pytest.skip("the table says what engine 28 does")
    driver, _ = option
    backend, parent = ({}, {}) if driver == "bridge" else ({"backend": driver}, {"parent": UPLINK})
    differing = []
    for value in (one for one in COMPARED if named(one) == option):
        said = refusal(lab, "pynet", {**value.options, **backend, **parent})
        if bool(said) != bool(value.refused):
            differing.append(f"pynet: {value}: {said}")
        said = refusal(lab, driver, {**value.options, **parent}) if value.with_engine else ""
        if value.with_engine and bool(said) == value.taken_by_builtin:
            differing.append(f"built-in: {value}: {said}")
    assert not differing, "\n".join(differing)
