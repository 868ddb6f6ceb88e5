"""A second machine on the same wire as an engine; leaves the engine itself to `engine`."""

from types import TracebackType

from . import command
from .netns import Namespace, Plug, connect


class Lan:
    """A neighbour of an engine, which is also the engine's default gateway.

    The engine's end of the wire is `lan0`, the neighbour's is `eth0`. The engine's
    machine has to be there first; the wire goes with either of the two.
    """

    HOST4, HOST6 = "192.0.2.1", "2001:db8:1::1"
    NEIGHBOUR4, NEIGHBOUR6 = "192.0.2.2", "2001:db8:1::2"

    def __init__(self, host: Namespace) -> None:
        self.host = host
        self.neighbour = Namespace()

    def __enter__(self) -> "Lan":
        self.neighbour.__enter__()
        try:
            connect(
                Plug(self.host, "lan0", (f"{self.HOST4}/24", f"{self.HOST6}/64")),
                Plug(self.neighbour, "eth0", (f"{self.NEIGHBOUR4}/24", f"{self.NEIGHBOUR6}/64")),
            )
            for gateway in (self.NEIGHBOUR4, self.NEIGHBOUR6):
                command.run("ip", "-n", self.host.name, "route", "add", "default", "via", gateway)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the neighbour away, and the wire with it."""
        # The kernel ends a deleted namespace's interfaces some time later; a test that
        # lays the next wire at once needs the name free now.
        lan0 = ("ip", "-n", self.host.name, "link", "delete", "lan0")
        command.run(*lan0, check=False)
        self.neighbour.close()
