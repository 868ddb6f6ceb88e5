"""What a host has after somebody has pulled its plug."""

from .host import Host


def test_a_container_comes_back_with_its_network_and_its_port(host: Host) -> None:
    """After a reboot, a container with a restart policy runs again and is reached from the LAN."""
    url = f"http://{host.HOST4}:8080/hostname"
    host.docker("network", "create", "-d", "pynet", "--subnet", "10.9.0.0/24", "web")
    serve = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    options = ("--hostname", "served", "--network", "web", "-p", "8080:80", "--restart", "always")
    host.docker("run", "-d", "--name", "one", *options, *serve)
    host.eventually_shows(url, "served")
    host.pull_plug()
    host.boot()
    host.eventually_shows(url, "served")
    assert host.docker("network", "inspect", "-f", "{{.Driver}}", "web") == "pynet"
