"""Published ports: from everywhere, for every protocol, taken ones refused, all of them gone at the end."""

from __future__ import annotations

import pytest

from tests.engine.lab import FORGE, LISTENER, Lab
from tests.lab.wait import eventually


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.smoke
@pytest.mark.protocol
def test_a_published_port_is_reached_from_everywhere(lab: Lab, family: int) -> None:
    """From the host, another machine, containers of any network, the default bridge, and itself."""
    lab.network("net", "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
    lab.network("other", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.run("sibling", "--network", "net")
    lab.run("stranger", "--network", "other")
    address = lab.lan.HOST4 if family == 4 else f"[{lab.lan.HOST6}]"
    url = f"http://{address}:8080/hostname"
    assert lab.page(lab.host, url) == "web"
    assert lab.page(lab.neighbour, url) == "web"
    assert [lab.fetches(name, url) for name in ("sibling", "stranger", "web")] == ["web"] * 3
    if family == 4:
        lab.run("builtin")
        assert lab.fetches("builtin", url) == "web"
        assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "web"
        assert lab.fetches("sibling", "http://10.6.0.1:8080/hostname") == "web"
    else:
        assert lab.page(lab.host, "http://[::1]:8080/hostname") == "web"
        assert lab.page(lab.host, "http://localhost:8080/hostname") == "web"


def test_a_port_on_one_host_address_is_on_no_other(lab: Lab) -> None:
    """-p 127.0.0.1:… is for the host alone, even for a neighbour that routes 127.0.0.0/8 to it."""
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "127.0.0.1:8080:80", "-p", f"{lab.lan.HOST4}:8081:80")
    assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "web"
    assert lab.page(lab.host, f"http://{lab.lan.HOST4}:8080/hostname") is None
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") is None
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname") == "web"
    assert lab.page(lab.host, "http://127.0.0.1:8081/hostname") is None
    lab.run("udp", "--network", "net", "-p", "127.0.0.1:5353:53/udp", "-p", f"{lab.lan.HOST4}:5454:53/udp")
    for target, port, arrives in (("127.0.0.1", "5353", False), (lab.lan.HOST4, "5454", True)):
        server = lab.sandbox("udp", "python3", "-c", LISTENER, "0.0.0.0", "53", "1.5", stdout=-1, stderr=-3)
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        forged = ("eth0", lab.mac("lan0"), lab.lan.NEIGHBOUR4, target, port)
        lab.neighbour.run("python3", FORGE, *forged)
        assert (server.communicate()[0] == b"forged\n") is arrives


def test_a_container_does_not_reach_the_hosts_own_loopback(lab: Lab) -> None:
    """127.0.0.1 can be published because the bridge routes it, but nobody may send to it from there."""
    bridge = lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("evil", "--network", "net")
    mac = lab.mac(f"pn-{bridge[:12]}")
    for target, arrives, within_s in (("127.0.0.1", False, "1.5"), ("10.6.0.1", True, "20")):
        server = lab.host.popen("python3", "-c", LISTENER, target, "9009", within_s, stdout=-1, stderr=-3)
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        assert lab.sandbox("evil", "python3", FORGE, "eth0", mac, "10.6.0.2", target, "9009").wait() == 0
        assert (server.communicate()[0] == b"forged\n") is arrives


def test_udp_ports_carry_datagrams_both_ways(lab: Lab) -> None:
    """A datagram from the second machine and from 127.0.0.1 reaches the container, and the answer returns."""
    lab.network("net")
    lab.run("udp", "--network", "net", "-p", "5353:53/udp")
    echo = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',53));print('up',flush=True)\n"
        "while True: s.sendto(*s.recvfrom(99))"
    )
    server = lab.sandbox("udp", "python3", "-c", echo, stdout=-1)
    assert server.stdout is not None and server.stdout.readline() == b"up\n"
    for where, target in ((lab.neighbour, lab.lan.HOST4), (lab.host, "127.0.0.1"), (lab.host, lab.lan.HOST4)):
        script = (
            "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(2);"
            f"s.sendto(b'hello',('{target}',5353));print(s.recv(99).decode())"
        )
        assert where.run("python3", "-c", script).strip() == "hello"
    server.kill()
    server.wait()
    server.stdout.close()


def test_sctp_ports_are_translated(lab: Lab) -> None:
    """An SCTP packet to the host port leaves on the bridge for the container's port."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("sctp", "--network", "net", "-p", "7000:7001/sctp")
    capture = lab.host.popen(
        "tcpdump", "-nlc1", "-i", "any", "dst host 10.6.0.2 and sctp dst port 7001", stdout=-1, stderr=-1
    )
    assert capture.stderr is not None and capture.stdout is not None
    while b"listening" not in capture.stderr.readline():
        pass
    # An INIT chunk (RFC 4960, section 3.3.2) with its CRC32c left out: conntrack checks it only on request.
    script = (
        "import socket,struct,sys\n"
        "init=struct.pack('!BBHIIHHI',1,0,20,1,65535,1,1,1)\n"
        "def crc(data):\n"
        "    c=0xffffffff\n"
        "    for b in data:\n"
        "        c^=b\n"
        "        for _ in range(8): c=(c>>1)^(0x82f63b78 if c&1 else 0)\n"
        "    return c^0xffffffff\n"
        "head=struct.pack('!HHI',4000,7000,0)\n"
        "packet=head+struct.pack('<I',crc(head+b'\\0\\0\\0\\0'+init))+init\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_RAW,132)\n"
        f"s.sendto(packet,('{lab.lan.HOST4}',0))\n"
    )
    lab.neighbour.run("python3", "-c", script)
    assert b"10.6.0.2.7001" in capture.stdout.readline()
    capture.wait(timeout=5)
    capture.stdout.close()
    capture.stderr.close()


@pytest.mark.protocol
def test_ephemeral_ports_are_chosen_and_work(lab: Lab) -> None:
    """-p 80 and -P take a free port of the kernel's ephemeral range, the same for both families."""
    lab.network("net", "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
    lab.web("one", "--network", "net", "-p", "80")
    lab.web("two", "--network", "net", "--expose", "80", "-P")
    ports = [lab.host_port(name, "net", 80) for name in ("one", "two")]
    assert len(set(ports)) == 2
    for name, port in zip(("one", "two"), ports, strict=True):
        assert 32768 <= port <= 60999
        assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{port}/hostname") == name
        assert lab.page(lab.neighbour, f"http://[{lab.lan.HOST6}]:{port}/hostname") == name


@pytest.mark.protocol
def test_ranges_map_one_to_one_or_choose_a_free_port(lab: Lab) -> None:
    """-p 8000-8002:80-82 maps each; -p 8000-8005:80 takes the first of the range that is free."""
    lab.network("net")
    lab.web("one", "--network", "net", "-p", "8000-8002:80-82")
    lab.web("two", "--network", "net", "-p", "8000-8005:80")
    assert lab.page(lab.host, "http://127.0.0.1:8000/hostname") == "one"
    assert lab.host_port("two", "net", 80) == 8003
    assert lab.page(lab.host, "http://127.0.0.1:8003/hostname") == "two"


def test_a_taken_port_is_refused_with_its_holder(lab: Lab) -> None:
    """The sentence names the port and who has it: another endpoint, a process, the engine's own proxy."""
    lab.network("net")
    lab.web("one", "--network", "net", "-p", "8080:80")
    endpoint = lab.addresses("one", "net")["EndpointID"][:12]
    message = lab.refused("run", "-d", "--name", "two", "--network", "net", "-p", "8080:80", "busybox", "true")
    assert f"host port 0.0.0.0:8080/tcp is taken by pynet's endpoint {endpoint}" in message
    listener = lab.host.popen("python3", "-m", "http.server", "8081", stdout=-3, stderr=-3)
    try:
        eventually(lambda: lab.page(lab.host, "http://127.0.0.1:8081/"))
        message = lab.refused("run", "-d", "--name", "three", "--network", "net", "-p", "8081:80", "busybox", "true")
        assert f"host port 0.0.0.0:8081/tcp is taken by process {listener.pid} (python3)" in message
    finally:
        listener.kill()
        listener.wait()
    lab.web("builtin", "-p", "8082:80")
    message = lab.refused("run", "-d", "--name", "four", "--network", "net", "-p", "8082:80", "busybox", "true")
    assert "8082/tcp is taken by process" in message and "docker-proxy" in message
    message = lab.refused("run", "-d", "--name", "five", "-p", "8080:80", "busybox", "true")
    assert "8080" in message
    # Stopped, its port is free for the next one.
    lab.docker("stop", "-t0", "one")
    lab.web("six", "--network", "net", "-p", "8080:80")
    assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "six"


@pytest.mark.once
def test_a_host_address_that_is_not_there_is_refused(lab: Lab) -> None:
    """Publishing on an address that the host does not have fails the start and says so."""
    lab.network("net")
    message = lab.refused("run", "-d", "--network", "net", "-p", "198.51.100.9:80:80", "busybox", "true")
    assert "this host has no address 198.51.100.9" in message


def test_host_ports_are_held_against_other_processes(lab: Lab) -> None:
    """While a port is published no process can bind it; afterwards it can."""
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80", "-p", "8080:80/udp")
    script = (
        "import socket\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "    s=socket.socket(socket.AF_INET,kind); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n"
        "    try: s.bind(('0.0.0.0',8080)); print('bound')\n"
        "    except OSError as e: print(e.errno)\n"
    )
    assert lab.host.run("python3", "-c", script).split() == ["98"] * 2
    lab.docker("rm", "-f", "web")
    assert lab.host.run("python3", "-c", script).split() == ["bound"] * 2
