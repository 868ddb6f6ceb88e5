"""The state file is gone while containers run."""

import time

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import Host, both_firewalls, network

pytestmark = both_firewalls


def test_a_lost_store_leaves_rules_as_they_are(host: Host) -> None:
    """Neither the table nor the rules in the engine's chain go while a link of ours is in a sandbox."""
    host.netns.run("iptables-nft", "-N", "DOCKER-USER")
    host.ok("CreateNetwork", network())
    host.attach()
    with Namespace() as sandbox:
        host.netns.run("ip", "link", "set", "pnc000200020002", "netns", sandbox.name)
        before = host.state()
        assert "devgroup" in host.netns.run("iptables-nft", "-S", "DOCKER-USER")
        host.daemon.kill()
        for file in host.daemon.state_dir.glob("pynet.db*"):
            file.unlink()
        host.daemon.start()
        eventually(lambda: "its store is empty" in host.daemon.log)
        # The monitor has looked at the engine's chain once and again by then.
        time.sleep(2)
        after = host.state()
        assert (after.links, after.rules, after.sysctls) == (before.links, before.rules, before.sysctls)
        assert "devgroup" in host.netns.run("iptables-nft", "-S", "DOCKER-USER")
