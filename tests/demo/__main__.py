"""The story that the demo tells; each sentence of it is checked before it is said.

Needs root. Ends with 0 when all went as told, with 1 at the first thing that did not.
"""

import json
import os
import re
import shlex
import signal
import sys
import time
from contextlib import ExitStack
from types import FrameType

from tests.demo import words
from tests.demo.screen import DemoFailed, Screen, check
from tests.demo.traces import Traces
from tests.lab.command import CommandFailed, LabError
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.sweep import sweep
from tests.lab.wait import eventually

#: The machine's own dockerd, else one from Debian, the stable one first.
ENGINES = ("own", "26.1", "28.5", "20.10")
PAGE = "hello from web"
SERVE = f'mkdir /www; echo "{PAGE}" >/www/index.html; exec httpd -f -h /www'
PINGS = 100


def main() -> None:
    """Tell the story from beginning to end."""
    if os.geteuid() != 0:
        sys.exit("the demo needs root, for network namespaces: try 'sudo make demo'")
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    start, screen, traces = time.monotonic(), Screen(steps=10), Traces()
    screen.title("pynet at work, with a Docker Engine in a network namespace of its own:")
    screen.title("the network and the engine of this machine stay as they are.")
    code = 0
    try:
        sweep()
        with ExitStack() as stack:
            Story(screen, stack, traces).tell()
            with screen.step("The engine and its machines go"):
                stack.close()
                left = traces.found()
                check(not left, "something is left")
                screen.say("no namespace, link, rule, process, mount, cgroup or file is left of it")
                screen.say("kept for the next time: .venv and .lab; 'make clean' removes them")
    except (DemoFailed, LabError, RuntimeError, TimeoutError) as failure:
        screen.title(f"\nThe demo failed: {failure}")
        code = 1
    except KeyboardInterrupt:
        screen.title("\nInterrupted.")
        code = 130
    if code:
        left = traces.found()
        screen.title("\n".join(left) if left else "Nothing of the demo is left but .venv and .lab.")
        sys.exit(code)
    screen.title(f"\nDone in {time.monotonic() - start:.0f} s.")


class Story:
    """The cast and what it does; `stack` takes everybody away again."""

    def __init__(self, screen: Screen, stack: ExitStack, traces: Traces) -> None:
        self._screen = screen
        with screen.step("A private Docker Engine, and a second machine beside it"):
            self.engine = _engine(screen, stack)
            traces.watch(self.engine.netns)
            self.lan = stack.enter_context(Lan(self.engine.netns))
            traces.watch(self.lan.neighbour)
            screen.say(f"Docker {self.engine.version} runs in 'host', {Lan.HOST4}")
            screen.say(f"'neighbour', {Lan.NEIGHBOUR4}, is on the same wire")
        with screen.step("pynet, where the engine looks for plugins"):
            socket, state = self.engine.plugins / "pynet.sock", self.engine.folder / "state"
            screen.command("host", "pynet serve")
            self.daemon = stack.enter_context(Daemon(self.engine.netns, socket, state))
            screen.say(f"it answers; it is process {self.daemon.pid}")

    def tell(self) -> None:
        """Do everything between the arrival and the departure of the engine."""
        try:
            self._tell()
        except (DemoFailed, LabError, TimeoutError):
            self._screen.title("\nThe last that pynet wrote:\n" + "\n".join(self.daemon.log.splitlines()[-10:]))
            raise

    def _tell(self) -> None:
        step, say = self._screen.step, self._screen.say
        with step("A network of pynet with a web server, its port published, and a client"):
            self._docker("network create -d pynet --subnet 10.9.0.0/24 shop")
            self._docker(f"run -d --name web --network shop -p 8080:80 busybox sh -c {shlex.quote(SERVE)}")
            self._docker("run -d --name client --network shop busybox sleep 3600")
        with step("Containers find each other by name"):
            self._docker("exec client ping -c 1 web", contains=f"PING web ({self._address('web')})")
            eventually(lambda: self.engine.docker("exec", "client", "wget", "-qO-", "http://web/"))
            self._docker("exec client wget -qO- http://web/", contains=PAGE)
            say(f"the engine's DNS knows web as {self._address('web')}, and client gets its page")
        with step("Containers reach the world"):
            self._docker(f"exec client ping -c 1 {Lan.NEIGHBOUR4}", contains="1 packets received")
            ways = self.lan.neighbour.run("ip", "route")
            check("10.9." not in ways and "default" not in ways, f"the neighbour has a way to the network: {ways}")
            say("neighbour knows no way to 10.9.0.0/24: what it answered came from the host's address")
        with step("The published port serves host and neighbour; the container's address stays private"):
            self._curl("host", "http://127.0.0.1:8080/")
            self._curl("neighbour", f"http://{Lan.HOST4}:8080/")
            self._is_private(self._address("web"))
            say("the port is open to both; without it the neighbour gets no answer, though it knows the way")
        with step("What pynet made on the host"):
            picture = self._picture()
            for line in picture:
                say(line)
        with step("kill -9 of pynet while client pings web"):
            self._survive_kill()
            check(self._picture() == picture, "links and rules are not the same after the restart of pynet")
            say("pynet is back, and links and rules are as they were")
        with step("Everything is removed"):
            self._docker("rm -f web client")
            self._docker("network rm shop")
            self._nothing_left_on_host()
            check(self.daemon.stop() == 0, "pynet did not end well on SIGTERM")
            say("no link, no rule and no port of pynet is left on the host")

    def _docker(self, line: str, contains: str = "") -> None:
        self._screen.command("host", f"docker {line}")
        output = self.engine.docker(*shlex.split(line))
        self._screen.output(output)
        check(contains in output, f"{contains!r} is not in the answer")

    def _curl(self, where: str, url: str) -> None:
        machine = self.engine.netns if where == "host" else self.lan.neighbour
        self._screen.command(where, f"curl {url}")
        page = machine.run("curl", "-sS", "-m", "5", "--noproxy", "*", url)
        self._screen.output(page)
        check(page.strip() == PAGE, f"{where} did not get the page of {url}")

    def _is_private(self, address: str) -> None:
        """Try the container's own address from the neighbour, on a route that leads there."""
        neighbour = self.lan.neighbour
        route = ("ip", "route", "add", "10.9.0.0/24", "via", Lan.HOST4)
        curl = ("curl", "-sS", "-m", "2", "--noproxy", "*", f"http://{address}/")
        self._screen.command("neighbour", shlex.join(route))
        neighbour.run(*route)
        self._screen.command("neighbour", f"curl -m 2 http://{address}/")
        try:
            neighbour.run(*curl)
        except CommandFailed as failure:
            # Of curl: 28 is "the time is over", which is what a dropped packet looks like.
            check(failure.outcome == "exit code 28", f"no time-out, but another failure: {failure}")
            self._screen.output(failure.stderr)
        else:
            raise DemoFailed(f"the neighbour reached {address}, which is not published")

    def _survive_kill(self) -> None:
        ping = f"exec client ping -i 0.1 -c {PINGS} web"
        self._screen.command("host", f"docker {ping} &")
        with self.engine.machine.popen(
            *("docker", "-H", f"unix://{self.engine.socket}", *ping.split()), stdout=-1, stderr=-2
        ) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            self._screen.command("host", f"kill -9 {self.daemon.pid}")
            self.daemon.kill()
            self._curl("neighbour", f"http://{Lan.HOST4}:8080/")
            check(process.poll() is None, "ping ended before pynet was back")
            self._screen.command("host", "pynet serve")
            self.daemon.start()
            check(process.poll() is None, "ping ended before pynet was back")
            summary = process.stdout.read().decode().partition("statistics ---")[2]
        received = re.search(rf"{PINGS} packets transmitted, (\d+) packets received", summary)
        check(received, f"ping did not finish: {summary}")
        assert received is not None
        self._screen.output(summary.strip().splitlines()[0])
        check(int(received[1]) == PINGS, f"{PINGS - int(received[1])} packets were lost")
        self._screen.say("no packet was lost, and the published port served without pynet")

    def _picture(self) -> list[str]:
        """Describe what is on the host, and check that it is what was asked for."""
        host = self.engine.netns
        ends = {self._endpoint(name)["EndpointID"][:12]: name for name in ("web", "client")}
        addresses = {self._address(name): name for name in ("web", "client")}
        links = words.links(host.run("ip", "-j", "address"), ends)
        rules = words.rules(host.run("nft", "-j", "list", "table", "inet", "pynet"), addresses)
        told = "\n".join(links + rules)
        for name in ("web", "client"):
            check(f"the host's end of {name}'s cable" in told, f"no link belongs to {name}: {told}")
        check("10.9.0.1/24: the network" in told, f"no bridge has the gateway's address: {told}")
        check(f"host port 8080/tcp → {self._address('web')}:80, which is web" in told, f"no published port: {told}")
        beside = [rule for rule in self._docker_user() if rule.endswith("-j ACCEPT")]
        check(len(beside) == 2, f"not two rules of pynet in DOCKER-USER: {beside}")
        return [*links, *rules, "in the engine's DOCKER-USER chain: both ways, what these rules let pass may pass"]

    def _docker_user(self) -> list[str]:
        rules = self.engine.machine.run("iptables", "-S", "DOCKER-USER").splitlines()
        return [rule for rule in rules if "-group 0x706e" in rule]

    def _nothing_left_on_host(self) -> None:
        host = self.engine.netns
        links = words.links(host.run("ip", "-j", "address"), {})
        check(not links, f"links are left: {links}")
        tables = host.run("nft", "list", "tables")
        check("pynet" not in tables, f"a table is left: {tables}")
        check(not self._docker_user(), f"rules are left in DOCKER-USER: {self._docker_user()}")

    def _endpoint(self, container: str) -> dict[str, str]:
        form = "{{json .NetworkSettings.Networks.shop}}"
        answer: dict[str, str] = json.loads(self.engine.docker("inspect", "--format", form, container))
        return answer

    def _address(self, container: str) -> str:
        return self._endpoint(container)["IPAddress"]


def _engine(screen: Screen, stack: ExitStack) -> Engine:
    """Start the first engine that works here."""
    for version in ENGINES:
        try:
            if version == "own":
                screen.say("looking for this machine's own dockerd, to run a second one from it")
            else:
                screen.say(f"setting up Docker {version} from Debian's packages (half a minute, the first time)")
            return stack.enter_context(Engine(version))
        except (LabError, RuntimeError, TimeoutError) as failure:
            screen.say(str(failure).splitlines()[0])
    raise DemoFailed("no Docker Engine is to be had here; the lines above say why")


def _interrupted(number: int, frame: FrameType | None) -> None:
    # What follows is the clearing away: a second Ctrl-C must not end that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
