"""A whole host in a virtual machine: uplink, pynet and engine in its own namespace, as on a user's machine.

`Host` starts pynet and the engine by hand, `ServiceHost` leaves that to systemd.
"""

from tests.lab.lan import Lan
from tests.lab.wait import eventually

from .machine import PATIENCE, VirtualMachine

#: Cable the host to a second machine, the namespace `lan`; takes the IPv4 addresses of both, then the IPv6 addresses.
UPLINK = """
ip netns add lan
ip link add eth0 type veth peer name eth0 netns lan
ip address add $1/24 dev eth0
ip address add $3/64 dev eth0 nodad
ip link set eth0 up
ip -n lan link set lo up
ip -n lan address add $2/24 dev eth0
ip -n lan address add $4/64 dev eth0 nodad
ip -n lan link set eth0 up
ip route add default via $2
ip route add default via $4
ip -n lan link add link eth0 name eth0.50 type vlan id 50
ip -n lan address add $5/24 dev eth0.50
ip -n lan link set eth0.50 up
"""
#: What the second machine serves addresses from, on its VLAN; what it granted outlives a reboot, as a router's would.
DHCP = """
ip netns exec lan dnsmasq --conf-file=/dev/null --port=0 --interface=eth0.50 --bind-interfaces --no-ping \
    --dhcp-range=$1,$2,1h --dhcp-leasefile=/var/lib/leases --dhcp-authoritative --pid-file=
"""
#: A user's environment where the package index is a folder, and the project's own tools are not in the way.
USERS = (
    *("PIP_NO_INDEX=1", "PIP_FIND_LINKS=/lab/wheels"),
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
PLUGIN = "/run/docker/plugins/pynet.sock"
ENGINE = "/run/docker.sock"


class Host:
    """What a user of pynet has; `boot` it first, and again after `pull_plug`."""

    HOST4, HOST6 = Lan.HOST4, Lan.HOST6
    NEIGHBOUR4, NEIGHBOUR6 = Lan.NEIGHBOUR4, Lan.NEIGHBOUR6

    VLAN, VLAN_RANGE = "198.51.100.2", ("198.51.100.100", "198.51.100.150")

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm

    def boot(self) -> None:
        """Switch it on; pynet comes before the engine, as a service would."""
        self.vm.start()
        self.plug_in()
        self.start("pynet", "python -m pynetdriver serve", PLUGIN, "-X POST http://x/Plugin.Activate")
        self.start("dockerd", "dockerd", ENGINE, "http://x/_ping")

    def plug_in(self) -> None:
        """Cable it to the second machine, which is gone with each boot."""
        self.vm.shell(UPLINK, self.HOST4, self.NEIGHBOUR4, self.HOST6, self.NEIGHBOUR6, self.VLAN)
        self.vm.shell(DHCP, *self.VLAN_RANGE)

    def start(self, name: str, command: str, socket: str, request: str) -> None:
        """Start a daemon; returns when it answers `request`, in curl's words."""
        self.vm.shell(f"{command} >>/var/log/{name}.log 2>&1 &")
        asks = f"until curl -sfm5 -o /dev/null {request} --unix-socket {socket}; do sleep 0.2; done"
        self.vm.shell(f"timeout 120 sh -c '{asks}' || {{ cat /var/log/{name}.log; exit 1; }}")

    def pull_plug(self) -> None:
        """Switch it off hard, when its disk has what was written until now.

        An engine writes a container's layers without waiting for the disk: whether they outlive the
        next seconds is not what is asked here.
        """
        self.vm.run("sync")
        self.vm.kill()

    def docker(self, *arguments: str) -> str:
        """Run a docker command."""
        return self.vm.run("docker", *arguments).strip()

    def page(self, url: str, *where: str) -> str | None:
        """Fetch a page; None if nobody answers. `where` is a command to run curl by."""
        return self.vm.run(*where, "curl", "-gsm5", url, check=False).strip() or None

    def eventually_shows(self, url: str, text: str) -> None:
        """Wait until the second machine and the host itself see the page `text`."""

        def shown() -> bool:
            pages = self.page(url, "ip", "netns", "exec", "lan"), self.page(url)
            assert pages == (text, text)
            return True

        eventually(shown, timeout_s=20 * PATIENCE)


class ServiceHost(Host):
    """A host under systemd: the engine is Debian's docker.service, pynet is there after `make("install")`."""

    def boot(self) -> None:
        """Switch it on; systemd starts what is installed."""
        self.vm.start()
        self.plug_in()

    def reboot(self) -> None:
        """Shut it down in good order, and switch it on again."""
        self.vm.reboot()
        self.plug_in()

    def make(self, target: str, *prefix: str, check: bool = True) -> str:
        """Run make in the checkout as a user would, but with the wheels that are on the disk; returns what it said.

        Args:
            prefix: a command to run it by.
        """
        return self.vm.run(*prefix, "env", *USERS, "make", "--no-print-directory", target, check=check)

    def journal(self, unit: str) -> str:
        """What a unit has said since the machine was switched on."""
        return self.vm.run("journalctl", "--no-pager", "--boot", "--output=cat", f"--unit={unit}")
