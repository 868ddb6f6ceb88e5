"""The wire types: what is refused, and with which words."""

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynetdriver.docker import messages as wire
from pynetdriver.errors import InvalidRequest

NETWORK = "9f" * 32
ENDPOINT = "ab" * 32
SWARM_NETWORK = "0123456789abcdefghijklmno"
REQUESTS = [
    wire.CreateNetworkRequest,
    wire.NetworkRequest,
    wire.EndpointRequest,
    wire.CreateEndpointRequest,
    wire.JoinRequest,
    wire.ProgramRequest,
    wire.AnyRequest,
    wire.RequestPoolRequest,
    wire.PoolRequest,
    wire.RequestAddressRequest,
    wire.ReleaseAddressRequest,
]


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def assert_sentence(text: str) -> None:
    assert text and "\n" not in text and len(text) < 500, text


@pytest.mark.parametrize("kind", REQUESTS)
def test_decode_refuses_an_empty_body(kind: type[Any]) -> None:
    """An empty body is the engine's retry of a broken call and must never count as done."""
    with pytest.raises(InvalidRequest, match="empty request body"):
        wire.decode_request(b"", kind)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("body", [b"{", b"nonsense", b"\xff\xfe", b"{} {}", b"{'a': 1}"])
def test_decode_refuses_what_is_not_json(kind: type[Any], body: bytes) -> None:
    """A body that is not JSON is refused in one sentence."""
    with pytest.raises(InvalidRequest) as caught:
        wire.decode_request(body, kind)
    assert_sentence(str(caught.value))


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"', b"true"])
def test_decode_refuses_what_is_not_an_object(kind: type[Any], body: bytes) -> None:
    """JSON that is no object is refused in one sentence."""
    with pytest.raises(InvalidRequest, match="malformed request"):
        wire.decode_request(body, kind)


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_decode_refuses_json_nested_too_deep(depth: int) -> None:
    """Nesting without end is the sender's mistake, not an internal error."""
    body = b'{"NetworkID": "' + NETWORK.encode() + b'", "Options": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(InvalidRequest):
        wire.decode_request(body, wire.CreateEndpointRequest)


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        (wire.NetworkRequest, {}, "NetworkID"),
        (wire.NetworkRequest, {"NetworkID": None}, "NetworkID"),
        (wire.NetworkRequest, {"NetworkID": 3}, "NetworkID"),
        (wire.EndpointRequest, {"NetworkID": NETWORK}, "EndpointID"),
        (wire.JoinRequest, {"NetworkID": NETWORK, "EndpointID": ENDPOINT}, "SandboxKey"),
        (wire.CreateNetworkRequest, {"NetworkID": NETWORK, "IPv4Data": [{}]}, "Pool"),
        (wire.CreateNetworkRequest, {"NetworkID": NETWORK, "IPv4Data": {}}, "IPv4Data"),
        (
            wire.CreateNetworkRequest,
            {"NetworkID": NETWORK, "Options": {"com.docker.network.generic": {"mtu": 1}}},
            "generic",
        ),
        (wire.RequestPoolRequest, {"Pool": ""}, "AddressSpace"),
        (wire.ReleaseAddressRequest, {"PoolID": "x"}, "Address"),
        (
            wire.ProgramRequest,
            {
                "NetworkID": NETWORK,
                "EndpointID": ENDPOINT,
                "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 0}]},
            },
            "Port",
        ),
        (
            wire.ProgramRequest,
            {
                "NetworkID": NETWORK,
                "EndpointID": ENDPOINT,
                "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 65536}]},
            },
            "HostPort",
        ),
    ],
)
def test_decode_names_the_field_when_the_shape_is_wrong(kind: type[Any], body: Any, named: str) -> None:
    """A missing field or a wrong type is refused by its name on the wire."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        wire.decode_request(encoded(body), kind)
    assert_sentence(str(caught.value))


@pytest.mark.parametrize("absent", [{}, {"Options": None, "IPv4Data": None, "IPv6Data": None}, {"IPv4Data": []}])
def test_network_reads_alike_when_members_are_missing_null_or_empty(absent: dict[str, Any]) -> None:
    """Missing, null and empty lists mean the same."""
    read = wire.decode_request(encoded({"NetworkID": NETWORK, **absent}), wire.CreateNetworkRequest)
    assert (read.options, read.ipv4_data or None, read.ipv6_data or None) == (None, None, None)


MEMBERS_OF: list[tuple[type[Any], dict[str, Any]]] = [
    (
        wire.CreateNetworkRequest,
        {
            "NetworkID": NETWORK,
            "Options": {"com.docker.network.generic": None, "com.docker.network.internal": None},
            "IPv4Data": [{"Pool": "10.9.0.0/24", "Gateway": None, "AddressSpace": None, "AuxAddresses": {"a": None}}],
        },
    ),
    (
        wire.CreateEndpointRequest,
        {
            "NetworkID": NETWORK,
            "EndpointID": ENDPOINT,
            "Interface": {"Address": None, "AddressIPv6": None, "MacAddress": None},
            "Options": {"com.docker.network.endpoint.exposedports": None},
        },
    ),
    (
        wire.ProgramRequest,
        {
            "NetworkID": NETWORK,
            "EndpointID": ENDPOINT,
            "Options": {
                "com.docker.network.portmap": [
                    {"Proto": 6, "Port": 80, "HostIP": None, "HostPort": None, "HostPortEnd": None}
                ]
            },
        },
    ),
    (wire.RequestPoolRequest, {"AddressSpace": "a", "Pool": None, "SubPool": None, "Options": None, "V6": None}),
    (wire.RequestAddressRequest, {"PoolID": "a", "Address": None, "Options": None}),
]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("kind", "body"), MEMBERS_OF)
def test_null_reads_as_a_missing_member_at_any_depth(kind: type[Any], body: dict[str, Any]) -> None:
    """Every optional member may be null, also inside others."""
    assert wire.decode_request(encoded(body), kind) == wire.decode_request(encoded(without_nulls(body)), kind)


@pytest.mark.parametrize(
    ("kind", "body", "place"),
    [
        (wire.CreateNetworkRequest, {"NetworkID": NETWORK, "IPv4Data": [None]}, r"\$\.IPv4Data\[0\]"),
        (wire.CreateNetworkRequest, {"NetworkID": NETWORK, "IPv4Data": [{"Pool": None}]}, r"\$\.IPv4Data\[0\]"),
        (wire.CreateNetworkRequest, {"NetworkID": NETWORK, "IPv4Data": [{"Pool": 3}]}, r"\$\.IPv4Data\[0\]\.Pool"),
    ],
)
def test_decode_says_where_a_member_of_a_list_is_wrong(kind: type[Any], body: Any, place: str) -> None:
    """A null in a list is no missing member, and the sentence leads to it."""
    with pytest.raises(InvalidRequest, match=place) as caught:
        wire.decode_request(encoded(body), kind)
    assert_sentence(str(caught.value))


@pytest.mark.parametrize("member", ["NetworkID", "EndpointID"])
def test_decode_says_which_member_is_no_id(member: str) -> None:
    """The user sees the member's name, not a pattern."""
    body = {"NetworkID": NETWORK, "EndpointID": ENDPOINT, member: "../etc"}
    with pytest.raises(InvalidRequest) as caught:
        wire.decode_request(encoded(body), wire.EndpointRequest)
    assert str(caught.value) == f"malformed request: {member} is not an id"


def test_decode_ignores_members_that_newer_engines_send() -> None:
    """Unknown members are no reason to refuse."""
    body = {"NetworkID": NETWORK, "Labels": {"a": "b"}, "Options": {"com.docker.network.enable_ipv4": True}}
    assert wire.decode_request(encoded(body), wire.CreateNetworkRequest).network_id == NETWORK


@pytest.mark.parametrize("network", [NETWORK, SWARM_NETWORK, "0" * 12])
def test_ids_of_both_kinds_are_taken(network: str) -> None:
    """Hex ids of 64 characters and swarm's 25 of base 36 are ids."""
    assert wire.decode_request(encoded({"NetworkID": network}), wire.NetworkRequest).network_id == network


@pytest.mark.parametrize(
    "network",
    ["", "a" * 11, "a" * 65, "A" * 64, "a" * 200, "../../etc/passwd", "a" * 12 + "\n", "a" * 12 + "/", "ä" * 20],
)
def test_ids_of_other_forms_are_refused(network: str) -> None:
    """What could not become a link name or a key is no id."""
    with pytest.raises(InvalidRequest, match="NetworkID") as caught:
        wire.decode_request(encoded({"NetworkID": network}), wire.NetworkRequest)
    assert_sentence(str(caught.value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = ["NetworkID", "EndpointID", "Options", "IPv4Data", "Interface", "PoolID", "Address", "SandboxKey", "Pool"]


@given(kind=st.sampled_from(REQUESTS), body=st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=5))
def test_decode_answers_or_refuses_whatever_comes(kind: type[Any], body: dict[str, Any]) -> None:
    """Whatever JSON comes, it is read or refused in one sentence."""
    try:
        assert isinstance(wire.decode_request(encoded(body), kind), kind)
    except InvalidRequest as error:
        assert_sentence(str(error))


@given(body=st.binary(max_size=60))
def test_decode_answers_or_refuses_whatever_bytes_come(body: bytes) -> None:
    """Whatever bytes come, they are read or refused in one sentence."""
    try:
        wire.decode_request(body, wire.AnyRequest)
    except InvalidRequest as error:
        assert_sentence(str(error))


@given(st.text(alphabet=string.ascii_lowercase + string.digits, min_size=12, max_size=64))
def test_ids_survive_the_way_through(network: str) -> None:
    """An id is taken as it is."""
    assert wire.decode_request(encoded({"NetworkID": network}), wire.NetworkRequest).network_id == network
