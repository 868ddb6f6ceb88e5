"""Options of the engine and of its drivers with the values that these take, and what pynet does with them.

From moby's netlabel package and its drivers bridge, macvlan and ipvlan, 20.10 to 29: what they read with
strconv.ParseBool, strconv.Atoi and net.ParseIP, and where an empty value is no value.
"""

from __future__ import annotations

from dataclasses import dataclass, field

N, BRIDGE = "com.docker.network", "com.docker.network.bridge"
#: The host's addresses and its link with the default route.
HOST4, HOST6, UPLINK = "192.0.2.1", "2001:db8:1::1", "lan0"
#: Of values that neither takes.
ALIKE = "the built-in refuses it too"


@dataclass(frozen=True)
class Value:
    """Options of a network, and why pynet refuses them, empty if it takes them.

    Those that it refuses are taken by the built-in, unless the reason says otherwise. `with_engine` is False where the
    built-in would leave the host changed.
    """

    driver: str
    options: dict[str, str] = field(hash=False)
    refused: str = ""
    with_engine: bool = True

    @property
    def taken_by_builtin(self) -> bool:
        """Whether the engine's own driver makes such a network."""
        return self.refused != ALIKE

    def __str__(self) -> str:
        return " ".join([self.driver, *(f"{name}={value}" for name, value in self.options.items())])


def _each(driver: str, name: str, *values: str, refused: str = "") -> list[Value]:
    return [Value(driver, {name: value}, refused) for value in values]


TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
NO_BOOLEAN = ("", "yes", "on", "2", "tRUE", " true")
NO_NUMBER = ("", "1e3", "0x5dc", "1500 ", "1_500")
NO_NAME = "no link can have such a name, so what it is for would not be"
UNKNOWN = "an option that nobody knows is a mistake of who typed it"

VALUES: tuple[Value, ...] = (
    *_each("bridge", f"{BRIDGE}.enable_icc", *TRUE, *FALSE),
    *_each("bridge", f"{BRIDGE}.enable_icc", *NO_BOOLEAN, refused=ALIKE),
    *(
        one
        for name in ("enable_ip_masquerade", "inhibit_ipv4")
        for one in (
            *_each("bridge", f"{BRIDGE}.{name}", "T", "0"),
            *_each("bridge", f"{BRIDGE}.{name}", "", refused=ALIKE),
        )
    ),
    *_each("bridge", f"{BRIDGE}.default_bridge", "false", "0"),
    Value("bridge", {f"{BRIDGE}.default_bridge": "true"}, "docker0 stays the engine's", with_engine=False),
    *_each("bridge", f"{BRIDGE}.name", "", "front0", "a.b_c-d"),
    *_each("bridge", f"{BRIDGE}.name", "sixteen-letters-", "a b", "a/b", "..", refused=ALIKE),
    *_each("bridge", f"{BRIDGE}.name", 'a"b', "a;b", refused="such a name would have to be quoted in rules"),
    *_each("bridge", f"{BRIDGE}.host_binding_ipv4", "0.0.0.0", "127.0.0.1", "198.51.100.9"),
    *_each("bridge", f"{BRIDGE}.host_binding_ipv4", "::", "::1", "::ffff:127.0.0.1"),
    *_each("bridge", f"{BRIDGE}.host_binding_ipv4", "", "300.0.0.1", "127.1", "010.0.0.1", "::1/128", refused=ALIKE),
    *_each("bridge", f"{BRIDGE}.gateway_mode_ipv4", "nat", "nat-unprotected", "routed"),
    *_each("bridge", f"{BRIDGE}.gateway_mode_ipv6", "nat", "nat-unprotected", "routed"),
    *_each("bridge", f"{BRIDGE}.gateway_mode_ipv4", "", "NAT", "isolated", refused=ALIKE),
    *_each("bridge", f"{BRIDGE}.trusted_host_interfaces", "", ":", "lan0", "lan0:wg0:"),
    *_each("bridge", f"{BRIDGE}.trusted_host_interfaces", "lan0,wg0", "lan0 : wg0", refused=NO_NAME),
    *_each("bridge", f"{N}.host_ipv4", HOST4),
    *_each("bridge", f"{N}.host_ipv6", HOST6),
    *_each("bridge", f"{N}.host_ipv4", "", "lan0", refused=ALIKE),
    *_each("bridge", f"{N}.host_ipv4", "0.0.0.0", "198.51.100.9", refused="packets with it would get no answer"),
    # The built-in fails half way, and leaves its bridge.
    Value("bridge", {f"{N}.host_ipv4": HOST6}, "it is not of that family", with_engine=False),
    Value(
        "bridge",
        {f"{N}.host_ipv4": HOST4, f"{BRIDGE}.enable_ip_masquerade": "0"},
        "the built-in ignores the first of the two",
    ),
    *_each("bridge", f"{N}.container_iface_prefix", "", "lan", "lan@x", "twelve-chars"),
    *_each("bridge", f"{N}.container_iface_prefix", "thirteen-long", refused="with a few numbers it is too long"),
    *_each("bridge", f"{N}.container_iface_prefix", "a b", "a/b", "a:", "a%d", refused=NO_NAME),
    *_each("bridge", f"{N}.driver.mtu", "0", "00", "+0", "-0", "1400", "+1400", "01400", "68", "65535"),
    *_each("bridge", f"{N}.driver.mtu", *NO_NUMBER, "-1", "67", "65536", refused=ALIKE),
    *_each("macvlan", f"{N}.driver.mtu", "0", "1400"),
    *(
        one
        for driver in ("bridge", "macvlan", "ipvlan")
        for one in (
            *_each(driver, f"{N}.enable_ipv4", "1", "True"),
            *_each(driver, f"{N}.enable_ipv6", "0", "f"),
            *_each(driver, f"{N}.enable_ipv4", "", "yes", refused=ALIKE),
            *_each(driver, f"{N}.enable_ipv6", "", "on", refused=ALIKE),
            *_each(driver, f"{N}.advertise_addr_nmsgs", "0", "3", "+1"),
            *_each(driver, f"{N}.advertise_addr_nmsgs", "", "-1", "4", "many", refused=ALIKE),
            *_each(driver, f"{N}.advertise_addr_ms", "100", "2000"),
            *_each(driver, f"{N}.advertise_addr_ms", "", "99", "2001", "1s", refused=ALIKE),
        )
    ),
    # The built-in leaves the host's forwarding on after these.
    *(Value("bridge", {f"{N}.enable_ipv6": value}, with_engine=False) for value in ("1", "t")),
    *_each("macvlan", "macvlan_mode", "", "bridge", "private", "vepa", "passthru"),
    *_each("macvlan", "macvlan_mode", "Bridge", "0", refused=ALIKE),
    *_each("ipvlan", "ipvlan_mode", "", "l2", "l3", "l3s"),
    *_each("ipvlan", "ipvlan_mode", "L2", refused=ALIKE),
    *_each("ipvlan", "ipvlan_flag", "", "bridge", "private", "vepa"),
    *_each("ipvlan", "ipvlan_flag", "Bridge", refused=ALIKE),
    *(
        one
        for driver in ("macvlan", "ipvlan")
        for one in (
            *_each(driver, "parent", "", UPLINK, f"{UPLINK}.50"),
            *_each(driver, "parent", "lo", "absent0", "absent0.50", f"{UPLINK}.4095", refused=ALIKE),
        )
    ),
    *_each("bridge", f"{BRIDGE}.enable_icct", "true", refused=UNKNOWN),
    *_each("bridge", f"{N}.driver.overlay.vxlanid_list", "256", refused="it is overlay's"),
    *_each("bridge", f"{N}.windowsshim.interface", "Ethernet", refused="it is that of Windows"),
    *_each("bridge", f"{N}.internal", "true", refused="the built-in ignores it; --internal is meant"),
)
