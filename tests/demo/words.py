"""A host's links and rules in words, read from what `ip -j` and `nft -j` say; leaves asking to the caller."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

#: What the rules of a network's own chains say, by their expressions. {net} is its bridge.
_MEANINGS = {
    '[{"match": {"left": {"ct": {"key": "state"}}, "op": "in", "right": ["established", "related"]}}, '
    '{"accept": null}]': ("into {net}: answers are let in"),
    '[{"match": {"left": {"ct": {"key": "status"}}, "op": "in", "right": "dnat"}}, {"accept": null}]': (
        "into {net}: what came by a published port is let in"
    ),
    '[{"match": {"left": {"meta": {"key": "iifname"}}, "op": "==", "right": "{net}"}}, {"accept": null}]': (
        "into {net}: its own containers reach each other"
    ),
    '[{"drop": null}]': "into {net}: anything else is dropped",
    '[{"match": {"left": {"meta": {"key": "oifname"}}, "op": "==", "right": "{net}"}}, '
    '{"match": {"left": {"ct": {"key": "status"}}, "op": "in", "right": "dnat"}}, {"masquerade": null}]': (
        "back into {net} by a published port: the answer is made to come back the same way"
    ),
    '[{"match": {"left": {"meta": {"key": "oifname"}}, "op": "==", "right": "{net}"}}, {"return": null}]': (
        "within {net}: containers see each other's own addresses"
    ),
    '[{"masquerade": null}]': "out of {net}: to the world it all comes from the host's address",
}


def links(addresses: str, containers: Mapping[str, str]) -> list[str]:
    """Describe pynet's links, one line each.

    Args:
        addresses: what `ip -j address` said.
        containers: names of containers by the first 12 characters of their endpoints' ids.
    """
    lines = []
    for link in json.loads(addresses):
        name: str = link["ifname"]
        if name.startswith("pn-"):
            own = [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global"]
            lines.append(f"bridge {name}, address {', '.join(own)}: the network and its gateway")
        elif name.startswith("pnh"):
            container = containers.get(name.removeprefix("pnh"), "an unknown container")
            lines.append(f"link {name}, plugged into {link.get('master')}: the host's end of {container}'s cable")
    return lines


def rules(table: str, containers: Mapping[str, str]) -> list[str]:
    """Describe what pynet's table says about networks and ports, one line each.

    Args:
        table: what `nft -j list table inet pynet` said.
        containers: names of containers by their addresses.
    """
    objects = json.loads(table)["nftables"]
    lines = []
    for found in _only(objects, "map"):
        if found["name"] == "publish4":
            for key, data in found.get("elem", []):
                (protocol, host_port), (address, port) = key["concat"], data["concat"]
                who = containers.get(address, "an unknown container")
                lines.append(f"host port {host_port}/{protocol} → {address}:{port}, which is {who}")
    for rule in _only(objects, "rule"):
        chain, _, net = rule["chain"].partition("_")
        if net and chain in ("to", "leave"):
            key = json.dumps(rule["expr"], sort_keys=True).replace(net, "{net}")
            lines.append(_MEANINGS.get(key, f"{rule['chain']}: {key}").replace("{net}", net))
    return lines


def _only(objects: Iterable[Mapping[str, Any]], kind: str) -> list[Any]:
    return [one[kind] for one in objects if kind in one]
