"""The part of pynet in the tables of legacy iptables."""

from .netns import Namespace


def legacy_rules(netns: Namespace) -> str:
    """Write pynet's chains and the jumps to them, without counters; makes no table that is not there.

    Of a jump's place among the rules of others it says only whether it is the first.
    """
    found: dict[str, list[str]] = {}
    table, chains = "", set[str]()
    for line in netns.run("sh", "-c", "iptables-legacy-save; echo IPv6; ip6tables-legacy-save").splitlines():
        family = "IPv6" if line == "IPv6" or table.startswith("IPv6") else "IPv4"
        if line.startswith("*") or line == "IPv6":
            table, chains = f"{family} {line.removeprefix('*')}", set()
        words = line.split()
        if "PYNET-" in line:
            first = " (first)" if line.startswith("-A") and words[1] not in chains else ""
            found.setdefault(table, []).append(words[0] if line.startswith(":") else line + first)
        if line.startswith("-A"):
            chains.add(words[1])
    return "\n".join(line for table in sorted(found) for line in (table, *found[table]))
