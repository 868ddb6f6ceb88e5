"""Whether a kernel has what a test names by `@pytest.mark.needs_kernel`; leaves what follows to conftest."""

import functools
import os

from tests.lab.command import CommandFailed
from tests.lab.netns import Namespace

#: Set in the virtual machine, where nothing may be missing.
INSIDE = "PYNET_VM" in os.environ
#: How `ip link add` makes one on the link `parent`, by the name that tests use.
LINKS = {
    "ipvlan": ("link", "parent", "name", "probe", "type", "ipvlan", "mode", "l2"),
    "macvlan": ("link", "parent", "name", "probe", "type", "macvlan", "mode", "bridge"),
    "8021q": ("link", "parent", "name", "probe", "type", "vlan", "id", "5"),
    "dummy": ("name", "probe", "type", "dummy"),
}


@functools.cache
def lacks(name: str) -> bool:
    """Try once whether this kernel refuses to make a link of the kind `name`, a key of `LINKS`."""
    with Namespace() as scratch:
        scratch.run("ip", "link", "add", "parent", "type", "veth", "peer", "name", "other")
        try:
            scratch.run("ip", "link", "add", *LINKS[name])
        except CommandFailed:
            return True
    return False
