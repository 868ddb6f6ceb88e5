"""Kinds of objects: what plans may name is known to whoever makes, removes, expects or compares it."""

import ast
from pathlib import Path
from typing import Any, get_args

import pytest

from pynetdriver import plan
from pynetdriver.kernel import objects
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import GROUPS
from pynetdriver.kernel.objects import KINDS
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.objects.link import LinkKind
from pynetdriver.kernel.settings import SWITCHES, key, needed
from pynetdriver.kernel.tables import of

FOLDER = Path(objects.__file__).parent
#: What several kinds share.
COMMON = {"__init__", "kind", "link"}


def test_every_object_of_a_plan_is_of_a_kind() -> None:
    """Nothing that a plan may name is unknown to the kernel, and nothing is known that no plan names."""
    assert set(KINDS) == set(get_args(plan.Object))
    assert set(SWITCHES) == set(get_args(plan.HostSetting))


def test_a_kind_is_a_file() -> None:
    """Each kind has a file to itself, and each file a kind."""
    found = [
        file.stem
        for file in FOLDER.glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Kind") and file.stem not in COMMON
    ]
    assert len(found) == len(set(found)) == len(KINDS)
    assert set(found) == {file.stem for file in FOLDER.glob("*.py")} - COMMON


def test_every_link_that_pynet_makes_has_a_group() -> None:
    """Without one it would be taken for somebody else's."""
    assert set(GROUPS) == {kind for made in get_args(plan.Made) for kind in made.kinds}
    assert all(issubclass(KINDS[made], LinkKind) for made in get_args(plan.Made))


def test_an_object_of_no_kind_is_an_error() -> None:
    """It is never just not made, not expected, not compared."""
    one: Any = "a port of a VXLAN"
    owner = plan.Owner.network("1")
    for wanted in (plan.Plan(owner, objects=(one,)), plan.Plan(owner, settings=(one,))):
        for take in (objects.expect, objects.forget):
            with pytest.raises(AssertionError, match=one):
                take(wanted, Health())
    for ask in (needed, key, lambda _: of(one, KINDS)):
        with pytest.raises(AssertionError, match=one):
            ask(one)


def test_what_is_expected_can_be_forgotten() -> None:
    """A kind that says what should be also says that it need not be any more."""
    for kind in KINDS.values():
        expects = {name for name in ("expect", "forget") if getattr(kind, name) is not getattr(Kind, name)}
        assert expects in (set(), {"expect", "forget"}) or kind is KINDS[plan.Hairpin]
