"""Which subnet, which address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from pynetdriver.errors import Conflict, Exhausted, InvalidRequest
from pynetdriver.pool import POOLS4, Allocator, free_pool, overlap, parse_address, parse_network, parse_subnet


def taken(allocator: Allocator, count: int) -> list[str]:
    return [str(allocator.take(None)) for _ in range(count)]


def test_allocator_gives_fresh_addresses_in_order() -> None:
    """Addresses nobody had go first, lowest first, without network and broadcast."""
    allocator = Allocator(IPNetwork("10.9.0.0/29"), None)
    assert taken(allocator, 6) == [f"10.9.0.{n}" for n in range(1, 7)]
    with pytest.raises(Exhausted, match=r"10\.9\.0\.0/29"):
        allocator.take(None)


def test_allocator_gives_a_released_address_last() -> None:
    """An address just released is the last to be given again."""
    allocator = Allocator(IPNetwork("10.9.0.0/29"), None)
    assert taken(allocator, 3) == ["10.9.0.1", "10.9.0.2", "10.9.0.3"]
    allocator.give_back(IPAddress("10.9.0.2"))
    allocator.give_back(IPAddress("10.9.0.1"))
    assert taken(allocator, 5) == ["10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.2", "10.9.0.1"]


def test_allocator_gives_a_released_address_last_when_restored() -> None:
    """The order of releases outlives a restart."""
    allocator = Allocator(IPNetwork("10.9.0.0/29"), None)
    allocator.restore([IPAddress("10.9.0.3")], [IPAddress("10.9.0.2"), IPAddress("10.9.0.1")])
    assert taken(allocator, 5) == ["10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.2", "10.9.0.1"]


def test_allocator_takes_the_address_asked_for() -> None:
    """An explicit address is held, and not given to anyone else."""
    allocator = Allocator(IPNetwork("10.9.0.0/29"), None)
    assert str(allocator.take(IPAddress("10.9.0.2"))) == "10.9.0.2"
    with pytest.raises(Conflict, match="in use"):
        allocator.take(IPAddress("10.9.0.2"))
    assert taken(allocator, 2) == ["10.9.0.1", "10.9.0.3"]
    allocator.give_back(IPAddress("10.9.0.2"))
    assert str(allocator.take(IPAddress("10.9.0.2"))) == "10.9.0.2"


@pytest.mark.parametrize("address", ["10.9.1.1", "10.8.255.255", "fd00::1"])
def test_allocator_refuses_an_address_outside_its_pool(address: str) -> None:
    """An address of another subnet or family is refused by name."""
    with pytest.raises(InvalidRequest, match="outside its pool"):
        Allocator(IPNetwork("10.9.0.0/24"), None).take(IPAddress(address))


@pytest.mark.parametrize("address", ["10.9.0.0", "10.9.0.255"])
def test_allocator_refuses_network_and_broadcast(address: str) -> None:
    """Network and broadcast are no addresses of a host."""
    with pytest.raises(InvalidRequest, match="network or broadcast"):
        Allocator(IPNetwork("10.9.0.0/24"), None).take(IPAddress(address))


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("10.9.0.4/30", ["10.9.0.5", "10.9.0.6"]),
        ("10.9.0.4/31", ["10.9.0.4", "10.9.0.5"]),
        ("10.9.0.4/32", ["10.9.0.4"]),
        ("fd00::4/126", ["fd00::5", "fd00::6", "fd00::7"]),
        ("fd00::4/127", ["fd00::4", "fd00::5"]),
        ("fd00::4/128", ["fd00::4"]),
    ],
)
def test_allocator_uses_all_of_a_small_pool(subnet: str, addresses: list[str]) -> None:
    """Pools of one or two addresses have neither network nor broadcast (RFC 3021, RFC 6164)."""
    allocator = Allocator(IPNetwork(subnet), None)
    assert taken(allocator, len(addresses)) == addresses
    with pytest.raises(Exhausted):
        allocator.take(None)


def test_allocator_leaves_out_the_anycast_address_of_ipv6() -> None:
    """The first address of an IPv6 subnet belongs to its routers (RFC 4291)."""
    assert taken(Allocator(IPNetwork("fd00::/64"), None), 2) == ["fd00::1", "fd00::2"]


def test_allocator_keeps_to_the_range_unless_asked() -> None:
    """`--ip-range` bounds what is chosen, not what is asked for."""
    allocator = Allocator(IPNetwork("10.9.0.0/24"), IPNetwork("10.9.0.8/31"))
    assert str(allocator.take(IPAddress("10.9.0.200"))) == "10.9.0.200"
    allocator.give_back(IPAddress("10.9.0.200"))
    assert taken(allocator, 2) == ["10.9.0.8", "10.9.0.9"]
    with pytest.raises(Exhausted):
        allocator.take(None)


def test_allocator_range_at_the_edge_leaves_network_and_broadcast_out() -> None:
    """A range that starts where its subnet does has no network address to give."""
    assert taken(Allocator(IPNetwork("10.9.0.0/24"), IPNetwork("10.9.0.0/30")), 3) == [
        "10.9.0.1",
        "10.9.0.2",
        "10.9.0.3",
    ]


def test_allocator_gives_forgotten_addresses_again() -> None:
    """Addresses released so long ago that they are forgotten come back once nothing else is left."""
    allocator = Allocator(IPNetwork("10.9.0.0/16"), IPNetwork("10.9.0.0/19"))
    everything = 2**13 - 1
    for address in taken(allocator, everything):
        allocator.give_back(IPAddress(address))
    assert len(set(taken(allocator, everything))) == everything
    with pytest.raises(Exhausted):
        allocator.take(None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60), st.integers(0, 59))
def test_allocator_agrees_with_a_plain_model(steps: list[tuple[bool, int]], restart: int) -> None:
    """Nothing is given twice, fresh goes before released, released in order, a restart changes nothing."""
    subnet = IPNetwork("10.9.0.0/30")
    allocator, held, released = Allocator(subnet, None), list[IPAddress](), list[IPAddress]()
    everything = [IPAddress(int(subnet.first) + n) for n in range(1, 3)]
    for step, (take, number) in enumerate(steps):
        if step == restart:
            allocator = Allocator(subnet, None)
            allocator.restore(held, released)
        if take:
            fresh = [one for one in everything if one not in held and one not in released]
            if not fresh and not released:
                with pytest.raises(Exhausted):
                    allocator.take(None)
                continue
            expected = fresh[0] if fresh else released[0]
            assert allocator.take(None) == expected
            held.append(expected)
            released = [one for one in released if one != expected]
        elif held:
            one = held.pop(number % len(held))
            allocator.give_back(one)
            released.append(one)
        assert allocator.held() == sorted(held)


def test_free_pool_jumps_over_what_is_taken() -> None:
    """A chosen pool overlaps nothing that is taken."""
    held = [IPNetwork("10.192.0.0/16"), IPNetwork("10.193.0.0/24")]
    assert str(free_pool(4, POOLS4, held)) == "10.193.1.0/24"


@pytest.mark.parametrize("routes", [["0.0.0.0/1", "128.0.0.0/1"], ["8.0.0.0/7", "0.0.0.0/2", "10.0.0.0/3"]])
def test_free_pool_ignores_routes_that_claim_half_the_world(routes: list[str]) -> None:
    """A VPN that routes everything does not own everything."""
    short = [IPNetwork(one) for one in routes if int(one.split("/")[1]) < 4]
    assert str(free_pool(4, POOLS4, short)) == "10.192.0.0/24"


def test_free_pool_runs_out_with_a_sentence() -> None:
    """When nothing is left, the user learns what to do."""
    with pytest.raises(Exhausted, match=r"no free IPv4 pool .* --subnet"):
        free_pool(4, POOLS4, POOLS4)


def test_free_pool_never_overlaps_when_asked_again() -> None:
    """The engine keeps a pool that it dislikes and asks again: each answer differs, to the last one."""
    bases, held = [IPNetwork("192.168.0.0/22")], list[IPNetwork]()
    for _ in range(4):
        held.append(free_pool(4, bases, held))
    assert len(set(held)) == 4
    with pytest.raises(Exhausted):
        free_pool(4, bases, held)


NETWORKS = st.builds(
    lambda number, length: IPNetwork(f"{IPAddress(number, 4)}/{length}").cidr,
    st.integers(int(IPAddress("10.190.0.0")), int(IPAddress("10.200.0.0"))),
    st.integers(4, 32),
)


@given(st.lists(NETWORKS, max_size=30))
def test_free_pool_overlaps_nothing(claimed: list[IPNetwork]) -> None:
    """Whatever is taken, the pool is inside the bases and free, or there is none at all."""
    base = IPNetwork("10.192.0.0/18")
    free = [one for one in base.subnet(24) if not any(overlap(one, other) for other in claimed)]
    try:
        assert free_pool(4, [base], claimed) == free[0]
    except Exhausted:
        assert not free


@given(NETWORKS, NETWORKS)
def test_overlap_is_what_netaddr_says(one: IPNetwork, other: IPNetwork) -> None:
    """Two subnets overlap when one is part of the other."""
    assert overlap(one, other) == (one in other or other in one)


def test_free_pool_of_ipv6_is_a_64() -> None:
    """IPv6 pools are as large as SLAAC wants them, and routes of the other family are no claim."""
    base = IPNetwork("fd12:3456:789a::/48")
    assert str(free_pool(6, [base], [IPNetwork("10.0.0.0/8")])) == "fd12:3456:789a::/64"
    assert str(free_pool(6, [base], [IPNetwork("fd12:3456:789a::/64")])) == "fd12:3456:789a:1::/64"


@pytest.mark.parametrize("text", ["", "1", "0x7f.1", "10.0.0", "010.0.0.1", "10.0.0.1/24", "fe80::1%eth0", "a" * 200])
def test_address_is_refused_when_it_has_another_form(text: str) -> None:
    """Only the usual form is an address, not all that inet_aton(3) takes."""
    with pytest.raises(InvalidRequest, match="is not an IP address") as caught:
        parse_address(text, "address")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/²", "fd00::/129"])
def test_network_is_refused_without_a_prefix_length(text: str) -> None:
    """An address without a proper prefix length is no network."""
    with pytest.raises(InvalidRequest, match="prefix length"):
        parse_network(text, "gateway")


def test_subnet_is_refused_when_host_bits_are_set() -> None:
    """A subnet with host bits is refused with the subnet that was meant."""
    with pytest.raises(InvalidRequest, match=r"did you mean 10\.9\.0\.0/24\?"):
        parse_subnet("10.9.0.7/24", "subnet")
