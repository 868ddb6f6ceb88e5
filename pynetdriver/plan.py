"""Plans: what one network or endpoint wants to exist on this host, as data, in creation order.

Objects are things in the kernel that pynet makes and removes; settings are host-wide switches that are
counted and put back; intents are firewall wishes, not rules. Plans are pure: same records, same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from netaddr import IPAddress, IPNetwork

from pynetdriver.model import Strangers
from pynetdriver.names import LINK_GROUP, PLAIN_GROUP, PREFIX_LENGTH


class Owner(NamedTuple):
    """Whose a plan is: a network's or an endpoint's by its id, or forwarding's by the IP version."""

    kind: Literal["network", "endpoint", "forwarding"]
    id: str

    @classmethod
    def network(cls, id: str) -> Owner:
        """Own what a network wants."""
        return cls("network", id)

    @classmethod
    def endpoint(cls, id: str) -> Owner:
        """Own what an endpoint wants."""
        return cls("endpoint", id)

    @classmethod
    def forwarding(cls, version: int) -> Owner:
        """Own what keeps strangers apart while the host forwards packets of an IP version."""
        return cls("forwarding", str(version))

    @property
    def short(self) -> str:
        """Name it as people do, e.g. network:0123456789ab."""
        return f"{self.kind}:{self.id[:PREFIX_LENGTH]}"

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


#: Protocols whose ports can be published, by IANA number; the engine knows ICMP too, which has no ports.
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


class _Object:
    """What objects say of links, none unless they say otherwise; how they are made is said in `kernel.objects`."""

    @property
    def links(self) -> tuple[str, ...]:
        """Links that it makes, both ends of a pair."""
        return ()

    @property
    def foreign(self) -> tuple[str, ...]:
        """Links that others made and the network needs."""
        return ()

    @property
    def anchors(self) -> tuple[str, ...]:
        """Links that stay on the host while the endpoint lives."""
        return ()

    @property
    def moving(self) -> tuple[str, ...]:
        """Links that are on the host only while the endpoint is in no sandbox."""
        return ()

    @property
    def lowers(self) -> tuple[str, ...]:
        """Links on which those stand that move."""
        return ()


@dataclass(frozen=True)
class Bridge(_Object):
    """A bridge that pynet makes; its MAC is fixed so that ports coming and going do not change it."""

    kind: ClassVar[str] = "bridge"
    #: What a link that pynet makes is by rtnetlink(7), the interface group in which it begins, its name in sentences.
    kinds: ClassVar[tuple[str, ...]] = (kind,)
    group: ClassVar[int] = LINK_GROUP
    word: ClassVar[str] = "bridge"

    name: str
    mac: str
    mtu: int

    @property
    def links(self) -> tuple[str, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"link {self.name} type bridge mtu {self.mtu} address {self.mac}"


@dataclass(frozen=True)
class Dummy(_Object):
    """A link that leads nowhere, for a network that is to be kept in."""

    kind: ClassVar[str] = "dummy"
    kinds: ClassVar[tuple[str, ...]] = (kind,)
    group: ClassVar[int] = PLAIN_GROUP
    word: ClassVar[str] = "link"

    name: str
    mac: str
    mtu: int

    @property
    def links(self) -> tuple[str, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"link {self.name} type dummy mtu {self.mtu} address {self.mac}"


@dataclass(frozen=True)
class Parent(_Object):
    """A link of somebody else's on which a network's links stand: it has to be there, and is not made or removed."""

    link: str

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.link,)

    def __str__(self) -> str:
        return f"parent {self.link}"


@dataclass(frozen=True)
class Upper(_Object):
    """A link that stands on another, its `lower` one: of kind vlan, macvlan or ipvlan.

    `attributes` are those of its kind, named as in linux/if_link.h after the prefix. It is made down. One that is
    `shared` is wanted by several networks and goes with the last. One that `moves` goes into a sandbox; while it is
    there the kernel would make it a second time. None for mac and mtu leaves them to the kernel.
    """

    kinds: ClassVar[tuple[str, ...]] = ("vlan", "macvlan", "ipvlan")
    group: ClassVar[int] = PLAIN_GROUP
    word: ClassVar[str] = "link"

    kind: str
    name: str
    lower: str
    attributes: tuple[tuple[str, int], ...]
    mac: str | None = None
    mtu: int | None = None
    shared: bool = False
    moves: bool = False

    @property
    def links(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def moving(self) -> tuple[str, ...]:
        return (self.name,) if self.moves else ()

    @property
    def lowers(self) -> tuple[str, ...]:
        return (self.lower,) if self.moves else ()

    def __str__(self) -> str:
        words = [f"link {self.name} type {self.kind} on {self.lower}"]
        words += [f"{key} {value}" for key, value in self.attributes]
        words += [f"mtu {self.mtu}"] if self.mtu else []
        words += [f"address {self.mac}"] if self.mac else []
        words += [word for word in ("shared", "moves") if getattr(self, word)]
        return " ".join(words)


@dataclass(frozen=True)
class Adopted(_Object):
    """A bridge of somebody else's, as it was found; up while the network is there."""

    link: str
    mtu: int
    up: bool

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.link,)

    def __str__(self) -> str:
        return f"adopt {self.link} mtu {self.mtu} {'up' if self.up else 'down'}"


@dataclass(frozen=True)
class Up(_Object):
    """A link of pynet's is brought up, after its switches are set."""

    link: str

    def __str__(self) -> str:
        return f"up {self.link}"


@dataclass(frozen=True)
class Veth(_Object):
    """A pair of which `peer` moves into the sandbox; pairs go together, so `name` stands for both.

    A `locked` port takes no frame with another source MAC than the peer's (linux/if_link.h, IFLA_BRPORT_LOCKED).
    The peer's MTU may be less than the port's: a bridge takes the least of its ports'.
    """

    kind: ClassVar[str] = "veth"
    kinds: ClassVar[tuple[str, ...]] = (kind,)
    group: ClassVar[int] = LINK_GROUP
    word: ClassVar[str] = "port"

    name: str
    peer: str
    peer_mac: str
    mtu: int
    bridge: str
    isolated: bool
    locked: bool = False
    peer_mtu: int | None = None

    @property
    def links(self) -> tuple[str, ...]:
        return (self.name, self.peer)

    @property
    def anchors(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def moving(self) -> tuple[str, ...]:
        return (self.peer,)

    def __str__(self) -> str:
        flags = (" isolated" if self.isolated else "") + (" locked" if self.locked else "")
        peer = self.peer + (f" mtu {self.peer_mtu}" if self.peer_mtu else "")
        return f"link {self.name} type veth mtu {self.mtu} master {self.bridge}{flags} peer {peer}"


@dataclass(frozen=True)
class Hairpin(_Object):
    """A port that may send a packet back to where it came from; gone with the link.

    With br_netfilter loaded the kernel bridges what is translated back into the same bridge, so a
    container would not reach its own published port (net/bridge/br_netfilter_hooks.c).
    """

    link: str

    def __str__(self) -> str:
        return f"hairpin {self.link}"


@dataclass(frozen=True)
class Address(_Object):
    """An address of a link, e.g. 10.9.0.1/24; it goes with the link unless that `stays` when its owner goes."""

    link: str
    address: IPNetwork
    stays: bool = False

    def __str__(self) -> str:
        return f"address {self.address} dev {self.link}"


@dataclass(frozen=True)
class Route(_Object):
    """A route of the host to one address, on a link of pynet's; gone with the link, or with its source address."""

    link: str
    address: IPAddress
    #: What the host calls itself there.
    source: IPAddress | None = None

    def __str__(self) -> str:
        return f"route {self.address} dev {self.link}" + (f" src {self.source}" if self.source else "")


class StaticRoute(NamedTuple):
    """A route in the sandbox; without a next hop its destination is on the link itself."""

    destination: IPNetwork
    next_hop: IPAddress | None = None


@dataclass(frozen=True)
class LinkSysctl(_Object):
    """A per-link switch under net/<family>/conf/<link>/; an object if the link is pynet's, else a setting."""

    family: str
    link: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"sysctl net.{self.family}.conf.{self.link}.{self.key} = {self.value}"


@dataclass(frozen=True)
class Forwarding:
    """A host-wide switch: route packets of this IP version (4 or 6)."""

    version: int

    def __str__(self) -> str:
        return f"forwarding ipv{self.version}"


@dataclass(frozen=True)
class Promiscuity:
    """A host-wide switch: a link of somebody else's takes in frames for all MACs (IFF_PROMISC, netdevice(7))."""

    link: str

    def __str__(self) -> str:
        return f"promiscuous {self.link}"


@dataclass(frozen=True)
class Crossing:
    """How packets of one IP version cross the edge of a network.

    `admits` says what comes in from elsewhere: what a published port led here; also what is addressed to an
    open port of a container itself, and ICMP; or anything but from other networks of containers. What goes out
    is translated to the address `source` (SNAT) or that of the link it leaves by ("link", masquerade), or is not
    translated (None).
    """

    version: int
    admits: Literal["published", "open", "all"] = "published"
    source: IPAddress | Literal["link"] | None = None

    def __str__(self) -> str:
        return f"ipv{self.version} in {self.admits} out as {self.source or 'itself'}"


@dataclass(frozen=True)
class Segment:
    """The edge of one network, which is its `link` on the host.

    `isolated` keeps its containers apart, `internal` keeps them in. From the links `trusted` open ports are
    reached as if all were admitted. `anti_spoof` lets no new flow out whose source is not of `subnets`.
    On a `shared` link there are others too, who are let alone: only what comes from a `Member` or goes to
    `subnets` is of this network. With IP versions that are `hostless` not even the host is reached.
    """

    link: str
    subnets: tuple[IPNetwork, ...]
    crossings: tuple[Crossing, ...]
    internal: bool = False
    isolated: bool = False
    anti_spoof: bool = False
    trusted: tuple[str, ...] = ()
    shared: bool = False
    hostless: tuple[int, ...] = ()

    def __str__(self) -> str:
        flags = {
            "shared": self.shared,
            "internal": self.internal,
            "isolated": self.isolated,
            "anti-spoof": self.anti_spoof,
        }
        words = [word for word, holds in flags.items() if holds]
        words += [f"hostless ipv{version}" for version in self.hostless]
        crossings = [] if self.internal else [f"({one})" for one in self.crossings]
        trusted = [f"trusted {link}" for link in self.trusted]
        return f"segment {self.link} {' '.join([*map(str, self.subnets), *words, *crossings, *trusted])}"


@dataclass(frozen=True)
class Relaying:
    """A port that the daemon answers, as far as the kernel does not translate it: for IPv6, or for broadcasts."""

    protocol: str
    host_port: int

    def __str__(self) -> str:
        return f"relay {self.protocol} {self.host_port}"


@dataclass(frozen=True)
class PortForward:
    """A host port that leads into a container; an unspecified host address means all of the host's.

    From the link `but_from` it does not: there the host itself answers.
    """

    protocol: str
    host_address: IPAddress
    host_port: int
    address: IPAddress
    port: int
    but_from: str | None = None

    def __str__(self) -> str:
        host, container = bracketed(self.host_address), bracketed(self.address)
        but = f" but from {self.but_from}" if self.but_from else ""
        return f"publish {self.protocol} {host}:{self.host_port} -> {container}:{self.port}{but}"


@dataclass(frozen=True)
class OpenPort:
    """A port of a container that is reached at the container's own address, as far as its network admits."""

    protocol: str
    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"open {self.protocol} {bracketed(self.address)}:{self.port}"


@dataclass(frozen=True)
class Entrance:
    """A link that pynet made on one of others, by which the host takes in only what is of a container, or for one.

    `admits` says from whom: whom the host's routes reach by that link and who is a `Member` there, whom the
    routes reach by it ("link"), or by it or by any link of the host's own on a parent ("shims").
    """

    link: str
    admits: Literal["members", "link", "shims"]

    def __str__(self) -> str:
        return f"entrance {self.link} for {self.admits}"


@dataclass(frozen=True)
class Guard:
    """A bridge port through which none of what only a router or a DHCP server says comes from the container.

    `against` is "ra" for router advertisements and redirects, "dhcp" for what DHCP servers answer to clients.
    """

    port: str
    against: Literal["ra", "dhcp"]

    def __str__(self) -> str:
        return f"{self.against} guard {self.port}"


@dataclass(frozen=True)
class Member:
    """A container on a shared link."""

    link: str
    mac: str

    def __str__(self) -> str:
        return f"member {self.mac} on {self.link}"


Made = Bridge | Dummy | Upper | Veth
Object = Made | Adopted | Parent | Up | Hairpin | Address | Route | LinkSysctl
Intent = Segment | Entrance | Guard | Member | PortForward | OpenPort | Relaying | Strangers
HostSetting = Forwarding | LinkSysctl | Promiscuity


@dataclass(frozen=True)
class SandboxInterface:
    """What a link is in its sandbox, where the engine sees to it, and pynet only to what was lost there."""

    prefix: str
    addresses: tuple[IPNetwork, ...] = ()
    ways: tuple[StaticRoute, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that one owner wants.

    `trial` is a link like those to come, which is made and removed once to learn what only the kernel knows.
    """

    owner: Owner
    settings: tuple[HostSetting, ...] = ()
    objects: tuple[Object, ...] = ()
    intents: tuple[Intent, ...] = ()
    trial: Upper | None = None

    @property
    def links(self) -> frozenset[str]:
        """All links that the plan makes, both ends of a pair."""
        return frozenset(name for one in self.objects for name in one.links)

    @property
    def guarded(self) -> tuple[HostSetting, ...]:
        """Settings that let in what the plan's own rules keep out: these come before, and go after them."""
        return tuple(one for one in self.settings if isinstance(one, LinkSysctl) and one.key == "route_localnet")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The edges whose packets pynet judges."""
        return tuple(one for one in self.intents if isinstance(one, Segment))

    @property
    def edges(self) -> tuple[Segment | Entrance | Guard, ...]:
        """What guards links, and so comes before them and goes after them."""
        return tuple(one for one in self.intents if isinstance(one, Segment | Entrance | Guard))

    @property
    def foreign(self) -> frozenset[str]:
        """Links that the network needs and others made."""
        return frozenset(name for one in self.objects for name in one.foreign)

    @property
    def published(self) -> tuple[PortForward, ...]:
        """The host ports that lead into a container."""
        return tuple(one for one in self.intents if isinstance(one, PortForward))

    @property
    def anchors(self) -> tuple[str, ...]:
        """Links that stay on the host while the endpoint lives: when one is gone, so is its sandbox."""
        return tuple(name for one in self.objects for name in one.anchors)

    @property
    def moving(self) -> tuple[str, ...]:
        """Links that are on the host only while the endpoint is in no sandbox."""
        return tuple(name for one in self.objects for name in one.moving)

    @property
    def lowers(self) -> tuple[str, ...]:
        """Links on which those stand that move into a sandbox: without them there is nothing to move."""
        return tuple(name for one in self.objects for name in one.lowers)

    def __str__(self) -> str:
        return "\n".join([str(self.owner), *(f"  {part}" for part in self.settings + self.objects + self.intents)])


def bracketed(address: IPAddress) -> str:
    """Write an address so that a port can follow it (RFC 3986, section 3.2.2)."""
    return f"[{address}]" if address.version == 6 else str(address)
