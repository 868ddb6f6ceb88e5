"""From `-p` to host ports."""

import random

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.docker.messages import PortBinding, PortOptions
from pynetdriver.docker.requests import requested_ports
from pynetdriver.errors import InvalidRequest
from pynetdriver.model import Endpoint, PortMapping
from pynetdriver.portmap import PortRequest, port_requests, relayed_to, split_satisfied, translated_to

ANY4, ANY6 = IPAddress("0.0.0.0"), IPAddress("::")
LOCAL4, LOCAL6, GLOBAL6 = IPAddress("127.0.0.1"), IPAddress("::1"), IPAddress("2001:db8::1")
TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
V4 = Endpoint(id="a" * 64, network_id="9" * 64, mac="", mac_given=False, address4=IPNetwork("10.9.0.2/24"))
DUAL = Endpoint(
    id="a" * 64,
    network_id="9" * 64,
    mac="",
    mac_given=False,
    address4=IPNetwork("10.9.0.2/24"),
    address6=IPNetwork("fd00::2/64"),
)
V6 = Endpoint(id="a" * 64, network_id="9" * 64, mac="", mac_given=False, address6=IPNetwork("fd00::2/64"))
BARE = Endpoint(id="a" * 64, network_id="9" * 64, mac="", mac_given=False)


def requested(
    endpoint: Endpoint, *bindings: PortBinding, defaults: tuple[IPAddress, ...] = (ANY4, ANY6), six_to_four: bool = True
) -> list[PortRequest]:
    ports = requested_ports(PortOptions(list(bindings), no_proxy_6to4=not six_to_four))
    assert ports is not None
    return port_requests(ports.bindings, endpoint, defaults, six_to_four=ports.six_to_four)


@pytest.mark.parametrize(("number", "name"), [(TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp")])
def test_port_is_requested_for_every_family_of_the_container(number: int, name: str) -> None:
    """Without a host address the port is the same on all addresses of each family, and of IPv6 where it is relayed."""
    binding = PortBinding(number, 80, "", 8080, 8080)
    both = (ANY4,) if number == SCTP else (ANY4, ANY6)
    assert requested(V4, binding) == [PortRequest(name, both, 8080, 8080, 80)]
    assert requested(V6, binding) == [PortRequest(name, (ANY6,), 8080, 8080, 80)]
    assert requested(DUAL, binding) == [PortRequest(name, (ANY4, ANY6), 8080, 8080, 80)]


def test_port_is_requested_once_when_named_twice() -> None:
    """The port list is a set: engines repeat themselves."""
    binding = PortBinding(TCP, 80, "", 8080, 8080)
    assert len(requested(V4, binding, binding)) == 1


def test_port_range_ends_where_it_starts_when_no_end_is_given() -> None:
    """An end of 0 means no range."""
    assert requested(V4, PortBinding(TCP, 80, "127.0.0.1", 8080)) == [
        PortRequest("tcp", (IPAddress("127.0.0.1"),), 8080, 8080, 80)
    ]
    assert requested(V4, PortBinding(TCP, 80)) == [PortRequest("tcp", (ANY4, ANY6), 0, 0, 80)]


@pytest.mark.parametrize("defaults", [(LOCAL4, ANY6), (ANY4, LOCAL6), (LOCAL4, LOCAL6)])
def test_port_stays_in_its_family_when_a_host_binding_is_set(defaults: tuple[IPAddress, IPAddress]) -> None:
    """Who binds to some address does not mean all of IPv6."""
    binding = PortBinding(TCP, 80, "", 8080)
    assert requested(V4, binding, defaults=defaults) == [PortRequest("tcp", (defaults[0],), 8080, 8080, 80)]


@pytest.mark.parametrize("default", [ANY6, LOCAL6])
def test_port_is_relayed_to_ipv4_when_the_host_binding_is_ipv6_alone(default: IPAddress) -> None:
    """It is published nowhere else."""
    binding = PortBinding(TCP, 80, "", 8080)
    assert requested(V4, binding, defaults=(default,)) == [PortRequest("tcp", (default,), 8080, 8080, 80)]


@pytest.mark.parametrize("host", ["::", "::1", "2001:db8::1"])
def test_port_on_an_ipv6_address_is_relayed_to_ipv4(host: str) -> None:
    """A container with IPv4 alone is published there, unless the engine says that another network is."""
    binding = PortBinding(TCP, 80, host, 8080)
    assert requested(V4, binding) == [PortRequest("tcp", (IPAddress(host),), 8080, 8080, 80)]
    assert requested(V4, binding, six_to_four=False) == []
    plain = PortBinding(TCP, 80, "", 8080)
    assert requested(V4, plain, six_to_four=False) == [PortRequest("tcp", (ANY4,), 8080, 8080, 80)]


IN4, IN6 = IPAddress("10.9.0.2"), IPAddress("fd00::2")


@pytest.mark.parametrize(
    ("endpoint", "host", "translated", "relayed"),
    [
        (V4, ANY4, IN4, ()),
        (V4, LOCAL4, IN4, ()),
        (V4, ANY6, None, (IN4,)),
        (V4, LOCAL6, None, (IN4,)),
        (V4, GLOBAL6, None, (IN4,)),
        (DUAL, ANY4, IN4, ()),
        (DUAL, ANY6, IN6, (IN6, IN4)),
        (DUAL, LOCAL6, None, (IN6, IN4)),
        (DUAL, GLOBAL6, IN6, ()),
        (V6, ANY6, IN6, (IN6,)),
        (V6, LOCAL6, None, (IN6,)),
    ],
)
def test_port_is_translated_or_relayed(
    endpoint: Endpoint, host: IPAddress, translated: IPAddress | None, relayed: tuple[IPAddress, ...]
) -> None:
    """The kernel has no way to ::1 nor between the families; what it can do is not done twice."""
    mapping = PortMapping("tcp", host, 8080, 80)
    assert translated_to(mapping, endpoint.addresses) == translated
    assert relayed_to(mapping, endpoint.addresses) == relayed
    assert relayed_to(PortMapping("sctp", host, 8080, 80), endpoint.addresses) == ()


@pytest.mark.parametrize(
    ("endpoint", "binding", "said"),
    [
        (V4, PortBinding(ICMP, 80), "protocol number 1"),
        (V4, PortBinding(TCP, 80, "", 9001, 9000), "9001-9000"),
        (V4, PortBinding(TCP, 80, "", 0, 9000), "0-9000"),
        (V4, PortBinding(TCP, 80, "nowhere"), '"nowhere"'),
        (V4, PortBinding(TCP, 80, "x" * 200), "is not an IP address"),
        (V4, PortBinding(SCTP, 80, "fd00::1"), "no IPv6 address"),
        (DUAL, PortBinding(SCTP, 80, "::1"), "routes nothing"),
        (V6, PortBinding(TCP, 80, "127.0.0.1"), "no IPv4 address"),
        (BARE, PortBinding(TCP, 80), "no address"),
    ],
)
def test_port_is_refused_when_it_cannot_be(endpoint: Endpoint, binding: PortBinding, said: str) -> None:
    """What cannot be published is refused, saying what and why."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        requested(endpoint, binding)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("host", ["255.255.255.255", "224.0.0.1", "ff02::1", "fe80::1", "::ffff:127.0.0.1"])
def test_port_is_refused_where_nobody_reaches_this_host(host: str) -> None:
    """Broadcast, multicast, one link's own, and IPv4 in another form."""
    with pytest.raises(InvalidRequest, match="not an address that others reach"):
        requested(V4, PortBinding(TCP, 80, host, 8080))


def test_ports_are_kept_when_they_answer_the_same_request() -> None:
    """A repeated Program keeps the ports that the first one chose."""
    held = [PortMapping("tcp", ANY4, 40001, 80), PortMapping("tcp", ANY6, 40001, 80), PortMapping("tcp", ANY4, 7, 7)]
    ephemeral = PortRequest("tcp", (ANY4, ANY6), 0, 0, 80)
    assert split_satisfied([ephemeral], held) == (held[:2], [])


@pytest.mark.parametrize(
    "request_",
    [
        PortRequest("udp", (ANY4,), 0, 0, 80),
        PortRequest("tcp", (ANY4,), 0, 0, 81),
        PortRequest("tcp", (ANY4,), 8000, 9000, 80),
        PortRequest("tcp", (ANY4, ANY6), 0, 0, 80),
        PortRequest("tcp", (IPAddress("127.0.0.1"),), 0, 0, 80),
    ],
)
def test_ports_are_asked_for_anew_when_they_differ(request_: PortRequest) -> None:
    """What differs in protocol, container port, range or address is another port."""
    assert split_satisfied([request_], [PortMapping("tcp", ANY4, 40001, 80)]) == ([], [request_])


def test_ports_answer_one_request_each() -> None:
    """One held port does not answer two requests."""
    low, any_ = PortRequest("tcp", (ANY4,), 40001, 40001, 80), PortRequest("tcp", (ANY4,), 0, 0, 80)
    held = [PortMapping("tcp", ANY4, 40001, 80)]
    assert split_satisfied([low, any_], held) == (held, [any_])


def test_ports_that_a_range_or_a_number_names_are_not_kept_for_any() -> None:
    """A repeated Program finds everything it asked for, in whatever order it asks."""
    any_, fixed = PortRequest("tcp", (ANY4,), 0, 0, 80), PortRequest("tcp", (ANY4,), 8080, 8080, 80)
    range_ = PortRequest("tcp", (ANY4,), 8080, 8089, 80)
    held = [PortMapping("tcp", ANY4, number, 80) for number in (8080, 8081, 40001)]
    assert split_satisfied([any_, range_, fixed], held) == (held, [])


def test_ports_are_kept_when_they_are_many() -> None:
    """2,000 ports of both families, fixed, from ranges and ephemeral, in any order: each keeps its own."""
    chance = random.Random(4711)
    held, requests = [], []
    for number in range(2000):
        protocol, port, host_port = ("tcp", "udp")[number % 2], 1 + number // 4, 20000 + number
        low, high = [(host_port, host_port), (20000, 22999), (0, 0)][number % 3]
        held += [PortMapping(protocol, address, host_port, port) for address in (ANY4, ANY6)]
        requests.append(PortRequest(protocol, (ANY4, ANY6), low, high, port))
    new = [PortRequest("sctp", (ANY4,), 0, 0, 80), PortRequest("tcp", (ANY4, ANY6), 1, 1, 1)]
    wanted = list(dict.fromkeys([*requests, *new]))
    chance.shuffle(wanted)
    chance.shuffle(held)
    kept, left = split_satisfied(wanted, held)
    assert sorted(left, key=str) == sorted(new, key=str)
    assert len(kept) == len(set(kept)) == 2 * (len(wanted) - len(new)) and set(kept) <= set(held)
    assert kept[::2] == [PortMapping(one.protocol, ANY4, one.host_port, one.port) for one in kept[1::2]]
    for request in wanted:
        if request.low == request.high != 0 and request not in new:
            assert PortMapping(request.protocol, ANY6, request.low, request.port) in kept
