"""Published ports over IPv6 where the container, or the way to it, has none: as with the built-in bridge."""

from __future__ import annotations

from tests.engine.lab import Lab
from tests.lab.wait import eventually

ECHO = (
    "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',53));print('up',flush=True)\n"
    "while True: s.sendto(*s.recvfrom(99))"
)
ASK = (
    "import socket,sys;s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM);s.settimeout(2);"
    "s.connect((sys.argv[1],5353));s.send(b'hello');print(s.recv(99).decode())"
)


def test_a_container_with_ipv4_alone_answers_on_ipv6(lab: Lab) -> None:
    """From the host by ::1 and `localhost`, from the second machine and from containers by the host's address."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.network("other", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64")
    lab.web("web", "--network", "net", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "[::1]:8082:80")
    lab.run("stranger", "--network", "other")
    url = f"http://[{lab.lan.HOST6}]:8080/hostname"
    for here in ("[::1]:8080", "localhost:8080", "127.0.0.1:8080", "[::1]:8082", f"[{lab.lan.HOST6}]:8080"):
        assert lab.page(lab.host, f"http://{here}/hostname") == "web", here
    assert lab.page(lab.neighbour, url) == "web"
    assert lab.fetches("stranger", url) == "web"
    assert lab.page(lab.neighbour, f"http://[{lab.lan.HOST6}]:8081/hostname") is None
    assert lab.page(lab.neighbour, f"http://[{lab.lan.HOST6}]:8082/hostname") is None
    # Stopped and started, and once more with another daemon.
    lab.docker("restart", "-t0", "web")
    eventually(lambda: lab.page(lab.neighbour, url) == "web")
    lab.daemon.kill()
    assert lab.page(lab.neighbour, url) is None
    lab.daemon.start()
    assert lab.page(lab.neighbour, url) == "web"
    lab.docker("stop", "-t0", "web")
    assert "Failed to connect" in lab.host.run("curl", "-gsSm2", "http://[::1]:8080/", "--stderr", "-", check=False)


def test_loopback_leads_to_a_container_with_both_families(lab: Lab) -> None:
    """::1 is answered as 127.0.0.1 is, TCP by whatever family the program knows."""
    lab.network("net", "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
    lab.web("web", "--network", "net", "-p", "8080:80", "-p", "[::1]:8082:80")
    four = ("httpd", "-f", "-p", "0.0.0.0:80", "-h", "/etc")
    lab.run("four", "--network", "net", "-p", "8081:80", command=four)
    for number, name in ((8080, "web"), (8082, "web"), (8081, "four")):
        assert lab.page(lab.host, f"http://[::1]:{number}/hostname") == name
    assert lab.page(lab.host, "http://localhost:8081/hostname") == "four"


def test_datagrams_are_relayed_both_ways(lab: Lab) -> None:
    """The answer leaves from the address that was asked."""
    lab.network("net")
    lab.run("udp", "--network", "net", "-p", "5353:53/udp")
    server = lab.sandbox("udp", "python3", "-c", ECHO, stdout=-1)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        lab.host.run("ip", "address", "add", "2001:db8:1::77/64", "dev", "lan0", "nodad")
        for where, target in (
            (lab.host, "::1"),
            (lab.neighbour, lab.lan.HOST6),
            (lab.neighbour, "2001:db8:1::77"),
        ):
            assert where.run("python3", "-c", ASK, target).strip() == "hello", target
    finally:
        lab.host.run("ip", "address", "delete", "2001:db8:1::77/64", "dev", "lan0", check=False)
        server.kill()
        server.communicate()
