"""Tables of other people, written by the newest nft that the lab has."""

import re

from .command import run
from .netns import Namespace
from .roots import ensure_root

NEWEST = "28.5"
#: Elements of each kind of set and map, as declarations and what rules do with them.
_EVERY_KIND = """
    set a_address { type ipv4_addr; elements = { 198.18.0.1, 198.18.0.2 } }
    set a_range { type ipv4_addr; flags interval; auto-merge; elements = { 198.18.0.0/24, 198.19.0.7-198.19.0.9 } }
    set a_range6 { type ipv6_addr; flags interval; elements = { 2001:db8::/32 } }
    set a_timed { type ipv4_addr; size 1024; flags dynamic,timeout; timeout 1h; }
    set a_mark { type mark; elements = { 0x1 } }
    set a_mac { type ether_addr; elements = { 02:11:22:33:44:55 } }
    set a_link { type ifname; elements = { "eth0", "wg*" }; flags interval; }
    set a_service { type inet_service; comment "of one type"; elements = { 22, 80 } }
    set a_pair { type ipv4_addr . inet_service; elements = { 198.18.0.1 . 80 } }
    set a_ranges { type ipv4_addr . inet_service; flags interval; elements = { 198.18.0.0/24 . 1-1023 } }
    set a_measured { type ipv4_addr; counter; elements = { 198.18.0.1 counter packets 1 bytes 2 } }
    set a_by_expression { typeof ip saddr; elements = { 198.18.0.1 } }
    set a_pair_by_expression { typeof ip saddr . tcp dport; elements = { 198.18.0.1 . 80 } }
    map a_decides { type ipv4_addr : verdict; elements = { 198.18.0.1 : accept } }
    map a_decides_by_link { type ifname : verdict; elements = { "eth0" : accept } }
    map a_decides_by_range { type ipv4_addr : verdict; flags interval; elements = { 198.18.0.0/24 : drop } }
    map a_leads { type inet_service : ipv4_addr; elements = { 80 : 198.18.0.1 } }
    map a_leads_on { type inet_service : ipv4_addr . inet_service; elements = { 80 : 198.18.0.1 . 8080 } }
    map a_marks { type ipv4_addr : mark; elements = { 198.18.0.1 : 0x1 } }
    map a_marks_by_expression { typeof ip saddr : meta mark; elements = { 198.18.0.1 : 0x1 } }
    map a_objects { type ipv4_addr : counter; elements = { 198.18.0.1 : "a_named" } }
    counter a_named { }
    quota a_limited { over 1 mbytes }
    limit a_paced { rate 10/second }
"""
_TABLES = """
table inet theirs { %(sets)s
  chain forward { type filter hook forward priority 0; policy accept;
    ip saddr { 198.18.0.7, 198.18.0.8 } counter name "a_named" drop
    ip saddr @a_address drop
    ip saddr @a_range drop
    ip saddr vmap @a_decides
    ip saddr 198.18.0.9 add @a_timed { ip saddr timeout 1m }
    tcp dport vmap { 9999 : drop }
    meta mark set ip saddr map @a_marks
  }
}
table ip theirs { %(sets)s }
table ip6 theirs { %(sets)s }
table bridge theirs { %(sets)s
  chain forward { type filter hook forward priority 0; policy accept; ip saddr @a_address drop; }
}
table arp theirs {
  set a_address { type ipv4_addr; elements = { 198.18.0.1 } }
}
table netdev theirs { %(sets)s }
table inet asleep { flags dormant
  set a_address { type ipv4_addr; elements = { 198.18.0.1 } }
}
table inet owned { flags owner, persist
  set a_address { type ipv4_addr; elements = { 198.18.0.1 } }
}
table ip docker-bridges {
  map filter-forward-in-jumps { type ifname : verdict; elements = { "docker0" : jump from-docker0 } }
  chain from-docker0 { accept; }
  chain forward { type filter hook forward priority 0; policy accept; iifname vmap @filter-forward-in-jumps; }
}
"""


def nft(netns: Namespace, *arguments: str) -> str:
    """Run the newest nft in a namespace. Raises Unavailable."""
    return netns.run("chroot", str(ensure_root(NEWEST)), "nft", *arguments)


def add_tables(netns: Namespace) -> None:
    """Add tables of every family that hold sets and maps of every kind. Raises Unavailable."""
    nft(netns, _TABLES % {"sets": _EVERY_KIND})


def remove_tables(netns: Namespace) -> None:
    """Remove them again."""
    nft(netns, "".join(f"delete table {name}\n" for name in re.findall(r"^table (\w+ \S+) {", _TABLES, re.MULTILINE)))


def listed(root: str, netns: Namespace) -> str:
    """List all tables with the nft of an engine's root file system; raises CommandFailed if it dies over one."""
    return netns.run("chroot", root, "nft", "list", "ruleset")


def version(root: str) -> str:
    """The version of the nft of a root file system, e.g. "1.1.3"."""
    return run("chroot", root, "nft", "--version").split()[1].removeprefix("v")
