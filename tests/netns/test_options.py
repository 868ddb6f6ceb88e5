"""Options that contradict each other or the host: one sentence, and nothing is changed."""

from __future__ import annotations

from typing import Any

from .host import INTERNAL, Host, network

BRIDGE = "com.docker.network.bridge"
HOST4 = "com.docker.network.host_ipv4"


def chosen(options: dict[str, Any], *, dual: bool = False) -> Any:
    return network(dual=dual, **options)


def with_gateway(gateway: str, **auxiliary: str) -> Any:
    request = network()
    request["IPv4Data"][0] |= {"Gateway": gateway, "AuxAddresses": auxiliary}
    return request


def internal(request: Any) -> Any:
    request["Options"][INTERNAL] = True
    return request


REFUSED: dict[str, tuple[str, Any]] = {
    "unknown mode": ("allowed: nat, nat-un", chosen({f"{BRIDGE}.gateway_mode_ipv4": "bridged"})),
    "isolated, not internal": ("needs --internal", chosen({f"{BRIDGE}.gateway_mode_ipv6": "isolated"}, dual=True)),
    "source that is not here": ("198.51.100.9 is no address of this host", chosen({HOST4: "198.51.100.9"})),
    "source of the other family": ("an IPv4 address", chosen({HOST4: "fd00::1"})),
    "source and no masquerade": (
        "contradicts enable_ip_masquerade=false",
        chosen({HOST4: "127.0.0.1", f"{BRIDGE}.enable_ip_masquerade": "false"}),
    ),
    "source and routed": (
        "contradicts gateway_mode_ipv4=routed",
        chosen({HOST4: "127.0.0.1", f"{BRIDGE}.gateway_mode_ipv4": "routed"}),
    ),
    "another way out of an internal network": (
        "contradicts --internal",
        internal(with_gateway("10.9.0.1/24", DefaultGatewayIPv4="10.9.0.99/24")),
    ),
    "gateway outside the subnet": ("not a host address of its subnet", with_gateway("10.8.0.1/24")),
    "gateway that is the broadcast address": ("not a host address of its subnet", with_gateway("10.9.0.255/24")),
    "MTU twice": ("the same one", chosen({"mtu": "1400", "com.docker.network.driver.mtu": "1500"})),
    "MTU of 67": ("68 to 65535", network(mtu="67")),
    "MTU of 1279 with IPv6": ("1280 to 65535 with IPv6", network(dual=True, mtu="1279")),
    "trusted links that are none": ("names of links", chosen({f"{BRIDGE}.trusted_host_interfaces": "lan0,lan1"})),
    "no boolean": ("true, false", network(anti_spoof="perhaps")),
}


def test_options_that_contradict_are_refused(host: Host) -> None:
    """Every contradiction is named, and neither store nor links, rules or switches change."""
    before, failures = host.state(), []
    for case, (said, request) in REFUSED.items():
        sentence = host.refused("CreateNetwork", request)
        if said not in sentence or host.state() != before:
            failures.append(f"{case}: {sentence}")
    assert not failures, "\n".join(failures)


def test_a_gateway_that_would_be_nowhere_is_not_asked_for(host: Host) -> None:
    """GwAllocCheck skips what no link would have: isolated families, and IPv4 that is inhibited and internal."""
    generic = "com.docker.network.generic"
    for options, skipped in (
        ({}, (False, False)),
        ({f"{BRIDGE}.gateway_mode_ipv4": "isolated"}, (True, False)),
        ({f"{BRIDGE}.gateway_mode_ipv6": "isolated"}, (False, True)),
        ({f"{BRIDGE}.inhibit_ipv4": "true"}, (True, False)),
    ):
        answer = host.ok("GwAllocCheck", {"Options": {generic: options, INTERNAL: True}})
        assert (answer.get("SkipIPv4", False), answer.get("SkipIPv6", False)) == skipped, options
