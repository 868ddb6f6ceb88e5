"""What engines write for four networks, IPv4 and IPv6: x1 is ordinary, x2 internal, x5 unprotected, x6 routed.

Rules as engines 26.1 and 28.5 wrote them; those of 29 after its sources, since it cannot be had here.
"""

from __future__ import annotations

from tests.lab.netns import Namespace

#: Number of a network's subnets by its bridge.
BRIDGES = {"x1": 1, "x2": 2, "x5": 5, "x6": 6}
ENGINES = ("26", "28", "29", "29 with nftables")
#: The container of each network has port 80 published.
CONTAINER = {4: "10.77.{}.2", 6: "fd00:77:{}::2"}
SUBNET = {4: "10.77.{}.0/24", 6: "fd00:77:{}::/64"}
_HOSTS = {4: 32, 6: 128}


def write(netns: Namespace, engine: str, flavour: str = "nft", bridges: tuple[str, ...] = tuple(BRIDGES)) -> None:
    """Write an engine's rules for some of the networks, in place of those that it had; the chain for others stays.

    Before 28 there are no unprotected and no routed networks: they are as x1 then.
    """
    for version in (4, 6):
        if engine == "29 with nftables":
            netns.run("nft", "-f", "-", input=_native(version, bridges))
            continue
        command = f"ip{'6' if version == 6 else ''}tables-{flavour}"
        lines = {"26": _26, "28": _28, "29": _29}[engine](version, bridges)
        there = netns.run(command, "-S").split()
        chains = {one for line in lines for one in line.split() if one.startswith("DOCKER")}
        chains -= {"DOCKER-USER"} & set(there)
        lines = [line for line in lines if line.split()[1] != "DOCKER-USER" or "DOCKER-USER" in chains]
        text = ["*filter", ":FORWARD DROP", *(f":{one} -" for one in chains), "-F FORWARD", *lines, "COMMIT", ""]
        netns.run(f"{command}-restore", "--noflush", input="\n".join(text))


def _internal(chain: str, bridge: str, version: int) -> list[str]:
    subnet = SUBNET[version].format(BRIDGES[bridge])
    inside, outside = (f"! -o {bridge} ", f"! -i {bridge} ") if version == 6 else ("", "")
    return [
        f"-A {chain} ! -s {subnet} {outside}-o {bridge} -j DROP",
        f"-A {chain} ! -d {subnet} -i {bridge} {inside}-j DROP",
    ]


def _published(bridge: str, version: int) -> str:
    address = f"{CONTAINER[version].format(BRIDGES[bridge])}/{_HOSTS[version]}"
    return f"-A DOCKER -d {address} ! -i {bridge} -o {bridge} -p tcp -m tcp --dport 80 -j ACCEPT"


def _26(version: int, bridges: tuple[str, ...]) -> list[str]:
    first, second = "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"
    lines = ["-A FORWARD -j DOCKER-USER", f"-A FORWARD -j {first}"]
    for one in bridges:
        if one == "x2":
            lines += [*_internal(first, one, version), f"-A FORWARD -i {one} -o {one} -j ACCEPT"]
            continue
        lines += [f"-A {first} -i {one} ! -o {one} -j {second}", f"-A {second} -o {one} -j DROP"]
        lines += [
            f"-A FORWARD -o {one} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"-A FORWARD -o {one} -j DOCKER",
            f"-A FORWARD -i {one} -j ACCEPT",
            _published(one, version),
        ]
    return [*lines, f"-A {first} -j RETURN", f"-A {second} -j RETURN", "-A DOCKER-USER -j RETURN"]


def _28(version: int, bridges: tuple[str, ...]) -> list[str]:
    first, second = "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"
    ours = ["-A DOCKER-FORWARD -j DOCKER-CT", f"-A DOCKER-FORWARD -j {first}", "-A DOCKER-FORWARD -j DOCKER-BRIDGE"]
    found = []
    for one in bridges:
        if one == "x2":
            found += _internal(first, one, version)
        if one == "x6":
            found += [f"-A {first} -i x6 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
            found += [f"-A {first} -o x6 -j RETURN"]
    for one in bridges:
        if one != "x2":
            found += [f"-A {first} -i {one} ! -o {one} -j {second}", f"-A {second} -o {one} -j DROP"]
    return ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD", *ours, *found, *_since_28(version, bridges)]


def _29(version: int, bridges: tuple[str, ...]) -> list[str]:
    ours = [f"-A DOCKER-FORWARD -j {one}" for one in ("DOCKER-CT", "DOCKER-INTERNAL", "DOCKER-BRIDGE")]
    found = _internal("DOCKER-INTERNAL", "x2", version) if "x2" in bridges else ["-A DOCKER-INTERNAL"]
    return ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD", *ours, *found, *_since_28(version, bridges)]


def _since_28(version: int, bridges: tuple[str, ...]) -> list[str]:
    lines = [_published(one, version) for one in bridges if one not in ("x2", "x5")]
    for one in bridges:
        if one == "x2":
            lines.append(f"-A DOCKER-FORWARD -i {one} -o {one} -j ACCEPT")
            continue
        if one == "x6":
            lines.append(f"-A DOCKER -o x6 -p {'ipv6-icmp' if version == 6 else 'icmp'} -j ACCEPT")
        lines += [
            f"-A DOCKER ! -i {one} -o {one} -j {'ACCEPT' if one == 'x5' else 'DROP'}",
            f"-A DOCKER-CT -o {one} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"-A DOCKER-BRIDGE -o {one} -j DOCKER",
            f"-A DOCKER-FORWARD -i {one} -j ACCEPT",
        ]
    return lines


def _native(version: int, bridges: tuple[str, ...]) -> str:
    family = "ip6" if version == 6 else "ip"
    chains, inward, outward = [], [], []
    for one in bridges:
        rules = ["ct state established,related counter accept"]
        if one == "x2":
            into, out_of = (
                [*rules, "iifname != x2 counter drop", "counter accept"],
                [*rules, "oifname != x2 counter drop"],
            )
        else:
            address = CONTAINER[version].format(BRIDGES[one])
            icmp = "ip protocol icmp" if version == 4 else "meta l4proto ipv6-icmp"
            into = [*rules, f"iifname {one} counter accept"]
            into += [f"{icmp} counter accept"] if one == "x6" else []
            into += [f"iifname != {one} {family} daddr {address} tcp dport 80 counter accept"] if one != "x5" else []
            into += ["counter accept" if one == "x5" else "counter drop"]
            out_of = [*rules, "counter accept"]
        for name, body in ((f"in__{one}", into), (f"out__{one}", out_of)):
            chains.append(f"chain filter-forward-{name} {{ {'; '.join(body)}; }}")
        inward.append(f"{one} : jump filter-forward-in__{one}")
        outward.append(f"{one} : jump filter-forward-out__{one}")
    if not bridges:
        return ""
    return f"""table {family} docker-bridges {{
        {chr(10).join(chains)}
        map filter-forward-in-jumps {{ type ifname : verdict; elements = {{ {", ".join(inward)} }} }}
        map filter-forward-out-jumps {{ type ifname : verdict; elements = {{ {", ".join(outward)} }} }}
        chain filter-FORWARD {{
            type filter hook forward priority filter; policy accept;
            oifname vmap @filter-forward-in-jumps
            iifname vmap @filter-forward-out-jumps
        }}
    }}\n"""
