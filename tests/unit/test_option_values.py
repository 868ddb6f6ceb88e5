"""Options of the engine's own drivers, with every value that these take."""

import pytest
from msgspec.structs import replace
from netaddr import IPNetwork

from pynetdriver.backends import NAMES, backend_named
from pynetdriver.docker.messages import CreateEndpointRequest, CreateNetworkRequest, IpamData, NetworkOptions
from pynetdriver.docker.requests import IFNAME_OPTION, requested_endpoint, requested_network
from pynetdriver.errors import PynetError
from pynetdriver.model import Facts, Link, Network
from pynetdriver.options import declared, parse_options
from tests.option_values import HOST4, HOST6, UPLINK, VALUES, Value

ADDRESSES = [(UPLINK, IPNetwork(f"{HOST4}/24")), (UPLINK, IPNetwork(f"{HOST6}/64"))]


def made(value: Value) -> Network:
    """Admit such a network on a host with one link."""
    backend = {} if value.driver == "bridge" else {"backend": value.driver}
    request = CreateNetworkRequest(
        "9f" * 32, NetworkOptions({**value.options, **backend}), [IpamData("10.9.0.0/24", "10.9.0.1/24")], []
    )
    network = requested_network(request)
    chosen = backend_named(network.backend)
    links = [Link(UPLINK, "device", 1500, mac="02:00:00:00:00:01"), Link("lo", "device", 65536)]
    found = tuple(one for one in links if one.name in chosen.named_links(network, UPLINK))
    network = replace(network, facts=Facts(1500, UPLINK, found))
    chosen.check(network, {}, ADDRESSES)
    return network


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_the_built_in_takes_is_taken(value: Value) -> None:
    """It is refused only where there is a reason, in one short sentence."""
    if not value.refused:
        made(value)
        return
    with pytest.raises(PynetError) as caught:
        made(value)
    assert caught.value.status == 400 and len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(("given", "name"), [({}, None), ({IFNAME_OPTION: ""}, None), ({IFNAME_OPTION: "web"}, "web")])
def test_an_interface_of_no_name_has_the_next_one(given: dict[str, str], name: str | None) -> None:
    """An endpoint's option that is empty is not given."""
    network = made(Value("bridge", {}))
    assert requested_endpoint(CreateEndpointRequest("9f" * 32, "8e" * 32, options=given), network).ifname == name


@pytest.mark.parametrize("driver", NAMES)
def test_no_value_is_the_default(driver: str) -> None:
    """An empty name is no name, and an MTU of 0 none."""
    options = backend_named(driver).Options
    unset = {name: one.unset for one in declared(options).values() for name in one.names if one.unset is not None}
    assert "com.docker.network.container_iface_prefix" in unset
    assert parse_options(options, {**unset, "mtu": "0"}) == options()
