"""What a host has after somebody has pulled its plug."""

from tests.lab.wait import eventually

from .host import Host

SERVE = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")


def test_containers_come_back_with_their_networks(host: Host) -> None:
    """After a reboot containers with a restart policy run again, and LAN and host reach them where they were.

    One publishes a port on a bridge, one is on the LAN with a MAC of its own, one is on a VLAN that pynet makes, with
    the parent's MAC and a lease of the DHCP server there.
    """
    pages = {f"http://{host.HOST4}:8080/hostname": "port"}
    create = ("network", "create", "-d", "pynet")
    host.docker(*create, "--subnet", "10.9.0.0/24", "web")
    run(host, "port", "web", "-p", "8080:80")
    lan = ("--subnet", "192.0.2.0/24", "--gateway", host.NEIGHBOUR4, "--aux-address", "host=192.0.2.223")
    host.docker(*create, "-o", "macvlan_mode=bridge", "-o", "host_access=true", *lan, "lan")
    run(host, "lan", "lan", "--ip", "192.0.2.200")
    pages["http://192.0.2.200/hostname"] = "lan"
    vlan = ("-o", "parent=eth0.50", "-o", "ipvlan_mode=l2", "-o", "dhcp=true", "--ipam-driver", "null")
    host.docker(*create, *vlan, "vlan")
    run(host, "leased", "vlan")
    address = leased(host)
    for url, name in pages.items():
        host.eventually_shows(url, name)
    host.pull_plug()
    host.boot()
    for url, name in pages.items():
        host.eventually_shows(url, name)
    eventually(lambda: leased(host) == address, timeout_s=60)
    assert host.page(f"http://{address}/hostname", "ip", "netns", "exec", "lan") == "leased"
    assert "192.0.2.1" in host.docker("exec", "lan", "ping", "-c1", "-W5", "192.0.2.1")
    host.docker("rm", "-f", "port", "lan", "leased")
    host.docker("network", "rm", "web", "lan", "vlan")
    left = host.vm.run("ip", "-br", "link")
    assert "eth0.50" not in left and "pn" not in left, left


def run(host: Host, name: str, network: str, *options: str) -> None:
    """Start a web server that comes back by itself; its page /hostname is its name."""
    always = ("--restart", "always", "--name", name, "--hostname", name, "--network", network)
    host.docker("run", "-d", *always, *options, *SERVE)


def leased(host: Host) -> str:
    """Tell the address of the container on the VLAN."""
    return host.docker("inspect", "-f", "{{.NetworkSettings.Networks.vlan.IPAddress}}", "leased")
