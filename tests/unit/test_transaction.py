"""Commands as messages for the kernel: what is by hand and what goes to the library."""

from __future__ import annotations

import pytest
from netaddr import IPNetwork

from pynetdriver.firewall import ruleset
from pynetdriver.firewall.transaction import Form, messages
from pynetdriver.nlmsg import GENERAL, Message, attributes
from pynetdriver.plan import Crossing, Segment

#: NFT_MSG_… of linux/netfilter/nf_tables.h.
NEW_CHAIN, DELETE_CHAIN, DELETE_RULES, NEW_ELEMENTS, DELETE_ELEMENTS = 3, 5, 8, 12, 14
COMPILED = Message(10 << 8 | NEW_CHAIN, 0, b"")


def written(commands: str) -> tuple[list[Message], list[str]]:
    """The messages, and what was given to the library."""
    given: list[str] = []

    def compile(text: str) -> list[Message]:
        given.append(text)
        return [COMPILED]

    return list(messages(commands, ruleset.FORMS, compile)), given


def test_the_library_gets_chains_and_rules_alone() -> None:
    """At once, and what it makes of them stands where they stood."""
    segment = Segment("pn-x", (IPNetwork("10.9.0.0/24"),), (Crossing(4, source="link"),))
    found, given = written(ruleset.change((), [segment]))
    assert [one.kind & 0xFF for one in found] == [NEW_CHAIN] + [NEW_ELEMENTS] * 3
    assert len(given) == 1 and all(line.startswith(("add chain", "add rule")) for line in given[0].splitlines())
    found, given = written(ruleset.change([segment], ()))
    kinds = [one.kind & 0xFF for one in found]
    assert kinds == [DELETE_ELEMENTS] * 3 + [DELETE_RULES, DELETE_CHAIN] * 2 and given == []


def test_elements_are_split_before_an_attribute_is_full() -> None:
    """An attribute holds 65,535 bytes."""
    keys = ", ".join(f"tcp . {number}" for number in range(10_000))
    found, _ = written(f"add element inet pynet counted4 {{ {keys} }}")
    lists = [dict(attributes(one.body, GENERAL.size))[3] for one in found]
    assert len(found) > 1 and all(len(one) < 65_000 for one in lists)
    assert sum(len(list(attributes(one))) for one in lists) == 10_000


@pytest.mark.parametrize(
    ("declared", "form"),
    [
        ("type ifname;", Form(("ifname",))),
        ("type ipv4_addr : verdict; flags interval;", Form(("ipv4_addr",), ("verdict",), interval=True)),
        (
            "type inet_proto . inet_service : ipv4_addr . inet_service;",
            Form(("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
        ),
    ],
)
def test_declarations(declared: str, form: Form) -> None:
    assert Form.declared(declared) == form


def test_sets_of_one_type_are_declared_by_an_expression() -> None:
    """nft 1.0.6 and older end with a signal over what newer ones write for a type alone."""
    declarations = ruleset.DECLARATIONS.splitlines()[1:-1]
    assert all(" . " in line or "{ typeof " in line for line in declarations)
