"""Names and addresses derived from ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import EUI, IPAddress

from pynetdriver import names

HEX = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)
SWARM = st.text(alphabet="0123456789abcdefghijklmnopqrstuvwxyz", min_size=25, max_size=25)


@given(HEX | SWARM)
def test_link_names_fit_the_kernel(id: str) -> None:
    """Names of links are at most 15 bytes (IFNAMSIZ), for both kinds of id."""
    for name in (names.bridge_name(id), names.host_link(id), names.container_link(id)):
        assert len(name.encode()) <= 15 and name.isprintable() and "/" not in name


def test_link_names_are_frozen() -> None:
    """Objects of an older pynet are found by name, so names do not change."""
    id = "0123456789abcdef" * 4
    assert names.bridge_name(id) == "pn-0123456789ab"
    assert names.host_link(id) == "pnh0123456789ab"
    assert names.container_link(id) == "pnc0123456789ab"
    assert names.network_mac(id) == "02:a8:ae:6e:6e:e9"


@given(HEX | SWARM)
def test_macs_are_local_and_of_one_interface(id: str) -> None:
    """A derived MAC is locally administered and unicast."""
    for text in (names.network_mac(id), names.endpoint_mac(id, None), names.endpoint_mac(id, IPAddress("10.9.0.2"))):
        mac = EUI(text)
        assert mac.words[0] & 3 == 2 and text == text.lower() and text.count(":") == 5


@pytest.mark.parametrize(
    ("address", "mac"), [("10.9.0.2", "02:42:0a:09:00:02"), ("192.168.255.1", "02:42:c0:a8:ff:01")]
)
def test_endpoint_mac_comes_from_its_address(address: str, mac: str) -> None:
    """A recreated container with the same address has the same MAC."""
    assert names.endpoint_mac("a" * 64, IPAddress(address)) == mac == names.endpoint_mac("b" * 64, IPAddress(address))


def test_endpoint_mac_comes_from_its_id_without_an_ipv4_address() -> None:
    """Without an IPv4 address two endpoints have different MACs."""
    address = IPAddress("fd00::2")
    assert names.endpoint_mac("a" * 64, address) == names.endpoint_mac("a" * 64, None)
    assert names.endpoint_mac("a" * 64, address) != names.endpoint_mac("b" * 64, address)
