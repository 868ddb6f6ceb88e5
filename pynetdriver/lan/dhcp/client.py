"""The state machine of RFC 2131 section 4.4: addresses obtained, and leases kept for as long as they are needed.

A socket is open only while an answer may come. Times are in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TypeVar

import structlog
from netaddr import IPAddress

from pynetdriver.errors import Conflict, HostError, PynetError, shortened
from pynetdriver.lan.dhcp.messages import (
    Kind,
    Reply,
    answers,
    decline,
    discover,
    lease_of,
    left_out,
    parsed,
    release,
    renewal,
    request,
)
from pynetdriver.lan.packet import SENT, PacketSocket
from pynetdriver.model import DhcpClient, DhcpLease

log = structlog.get_logger()

T = TypeVar("T")
#: Says the MAC of somebody who uses an address, None if nobody does.
Taken = Callable[[IPAddress], Awaitable[str | None]]
#: Told of an owner's lease after it was renewed or changed, or of its loss.
Changed = Callable[[str, DhcpLease | None], Awaitable[None]]

#: Between one DISCOVER and the next; a container's start waits, so sooner than the 4 s of RFC 2131 section 4.1.
_DISCOVER_S = (1.0, 2.0, 4.0)
#: A server that offered, or knows the former address, answers at once or not at all.
_REQUEST_S, _REBOOT_S = (1.0, 2.0), (0.7, 0.8)
#: Between a refusal of what was offered and the next DISCOVER: servers that choose by MAC offer clients with one MAC
#: the same address when they ask together, so these must part.
_REFUSED_S = (0.1, 0.5, 1.0, 2.0, 4.0)
#: Addresses that are in use by others until it is given up.
_DECLINES = 3
#: How long an answer to one renewal is waited for; the next attempt may be hours away.
_RENEWAL_S = 4.0
#: The least time between two renewals (RFC 2131 section 4.4.5), and its share of a lease that is short.
_LEAST_S, _LEAST_SHARE = 60.0, 1 / 20
#: Between attempts to replace a lost lease, and how long one takes.
_BACKOFF_S, _ATTEMPT_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0), 10.0


class _Refused(Exception):
    """A server said no; its reason, which is often empty, is the text."""


def _backing_off(pauses: Sequence[float], spread: float = 0.1) -> Iterator[float]:
    """Go through the pauses and stay with the last, none of them exactly, so that many clients part.

    Args:
        spread: by what share of a pause it may be shorter or longer.
    """
    for pause in chain(pauses, repeat(pauses[-1])):
        yield pause * random.uniform(1 - spread, 1 + spread)


class _Exchange:
    """Requests with one transaction id, and the sockets for their answers, from `with` to the end of the block.

    Raises:
        HostError: there is no such link.
    """

    def __init__(self, client: DhcpClient, began: float) -> None:
        self.client = client
        self.xid = random.getrandbits(32)
        #: How long it had gone on when the last DISCOVER was sent.
        self.secs = 0
        #: Why the last frame could not be sent.
        self.trouble: HostError | None = None
        self._began = began
        self._replies: asyncio.Queue[Reply] = asyncio.Queue(16)
        self._sockets: list[PacketSocket] = []

    def __enter__(self) -> _Exchange:
        program = answers(self.xid)
        self._sockets.append(PacketSocket(self.client.link, program, self._received))
        for link in self.client.listen:
            # One that is gone has nothing to hear.
            with contextlib.suppress(HostError):
                self._sockets.append(PacketSocket(link, (*SENT, *program), self._received))
        return self

    def __exit__(self, *_: object) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _received(self, frame: bytes) -> None:
        reply = parsed(frame)
        if reply is not None and reply.xid == self.xid and reply.is_for(self.client):
            with contextlib.suppress(asyncio.QueueFull):
                self._replies.put_nowait(reply)

    def send(self, frame: bytes) -> None:
        """Send a frame; if the link does not take it, that is noted in `trouble`."""
        self.trouble = None
        try:
            self._sockets[0].send(frame)
        except HostError as error:
            self.trouble = error

    async def ask(
        self, frame: Callable[[int], bytes], pauses: Iterable[float], wanted: Callable[[Reply], T | None]
    ) -> T | None:
        """Send, wait, send again; returns what `wanted` makes of the first fitting reply, None after the last pause.

        Args:
            frame: makes the frame; gets how long the whole has gone on.
            pauses: how long to wait after each frame.
        """
        loop = asyncio.get_running_loop()
        for pause in pauses:
            self.secs = int(loop.time() - self._began)
            self.send(frame(self.secs))
            end = loop.time() + pause
            while True:
                try:
                    async with asyncio.timeout_at(end):
                        reply = await self._replies.get()
                except TimeoutError:
                    break
                answer = wanted(reply)
                if answer is not None:
                    return answer
        return None


def _verdict(obtained: float, server: IPAddress | None) -> Callable[[Reply], DhcpLease | None]:
    """Take the ACK or NAK of that server, of anybody if it is None; a NAK raises _Refused."""

    def wanted(reply: Reply) -> DhcpLease | None:
        if server is not None and reply.server != server:
            return None
        if reply.kind is Kind.NAK:
            raise _Refused(reply.message)
        return lease_of(reply, obtained) if reply.kind is Kind.ACK else None

    return wanted


class _Acquisition:
    """The way from INIT or INIT-REBOOT to BOUND, again and again until whoever waits for it gives up."""

    def __init__(self, client: DhcpClient, wanted: IPAddress | None, *, reboot: bool) -> None:
        self._client = client
        self._wanted = wanted
        self._reboot = reboot
        self._began = asyncio.get_running_loop().time()
        self._exchange = _Exchange(client, self._began)
        self._happened = ""

    def failure(self, timeout_s: float) -> HostError:
        """Say what came of it so far."""
        where = f'on link "{self._client.link}" within {timeout_s:g} seconds'
        if self._happened:
            return HostError(f"no DHCP server gave an address {where}: {self._happened}")
        if self._exchange.trouble is not None:
            return HostError(f"no DHCP server could be asked {where}: {self._exchange.trouble}")
        advice = "check that the link is on the LAN and that a server serves it"
        return HostError(f"no DHCP server answered {where}; {advice}")

    async def run(self, taken: Taken | None) -> DhcpLease:
        """Obtain a lease of an address that nobody else uses.

        Raises:
            Conflict: the server gave addresses that others use.
            HostError: there is no such link.
        """
        declined = 0
        for pause in _backing_off(_REFUSED_S, 0.5):
            rebooting = self._reboot
            self._exchange = _Exchange(self._client, self._began)
            with self._exchange:
                lease = await self._negotiated()
                if lease is not None:
                    holder = await self._holder(lease, taken)
                    if holder is None:
                        return lease
                    self._exchange.send(decline(self._client, self._exchange.xid, lease))
                    self._happened = f"{lease.address.ip} is in use by {holder}"
                    self._wanted = None
                    declined += 1
                    if declined == _DECLINES:
                        raise Conflict(
                            f'DHCP server {lease.server} on link "{self._client.link}" gave addresses that others '
                            f"use, the last one {lease.address.ip}, which {holder} has"
                        )
            # Servers that say no to what they offered are not asked in a loop.
            if lease is None and not rebooting:
                await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")

    async def _holder(self, lease: DhcpLease, taken: Taken | None) -> str | None:
        self._happened = f"it is not known yet whether somebody uses {lease.address.ip}"
        try:
            return await taken(lease.address.ip) if taken is not None else None
        except BaseException:
            # Nobody will know of the lease.
            self._exchange.send(release(self._client, self._exchange.xid, lease))
            raise

    def _offered(self, reply: Reply) -> DhcpLease | None:
        if reply.kind is not Kind.OFFER:
            return None
        lease = lease_of(reply, time.time())
        if lease is None:
            self._happened = f"{reply.server or reply.source} offered {reply.address}, which nobody can use as it says"
        return lease

    def _granted(self, obtained: float, server: IPAddress | None) -> Callable[[Reply], DhcpLease | None]:
        """Take the verdict as `_verdict` does, and say what of it cannot be used."""
        verdict = _verdict(obtained, server)

        def wanted(reply: Reply) -> DhcpLease | None:
            lease = verdict(reply)
            unused = left_out(reply) if lease is not None else []
            if unused:
                log.warning(
                    "DHCP server gave routes that cannot be used, leaving them out",
                    address=str(reply.address),
                    server=str(reply.server),
                    routes=", ".join(unused),
                )
            return lease

        return wanted

    async def _negotiated(self) -> DhcpLease | None:
        """Go through one exchange; None if the server refused, or did not confirm its offer."""
        client, exchange = self._client, self._exchange
        offer: DhcpLease | None = None
        address = self._wanted
        try:
            if self._reboot and address is not None:
                self._reboot = False
                former = address
                confirmed = await exchange.ask(
                    lambda secs: request(client, exchange.xid, secs, former, None),
                    _REBOOT_S,
                    self._granted(time.time(), None),
                )
                if confirmed is not None:
                    return confirmed
            offer = await exchange.ask(
                lambda secs: discover(client, exchange.xid, secs, self._wanted),
                _backing_off(_DISCOVER_S),
                self._offered,
            )
            assert offer is not None, "pauses have no end"
            address, server = offer.address.ip, offer.server
            self._happened = f"{server} offered {address} and did not confirm it"
            secs = exchange.secs  # as in the DISCOVER, so that relays treat both alike (RFC 2131 section 3.1)
            return await exchange.ask(
                lambda _: request(client, exchange.xid, secs, offer.address.ip, offer.server),
                _REQUEST_S,
                self._granted(time.time(), server),
            )
        except _Refused as refusal:
            who = "a server" if offer is None else str(offer.server)
            why = f": {shortened(str(refusal))}" if str(refusal) else ""
            self._happened = f"{who} refused {address}{why}"
            return None


@dataclass(eq=False)
class _Kept:
    client: DhcpClient
    lease: DhcpLease | None
    task: asyncio.Task[None] = field(init=False)


class LeaseManager:
    """Obtains, renews and gives back all leases of this daemon."""

    def __init__(self, changed: Changed) -> None:
        """Take whom to tell; what `changed` raises is logged and changes nothing."""
        self._changed = changed
        self._kept: dict[str, _Kept] = {}

    async def acquire(
        self,
        client: DhcpClient,
        former: DhcpLease | None = None,
        taken: Taken | None = None,
        timeout_s: float = 10,
    ) -> DhcpLease:
        """Obtain a lease; the former one's address if the server still gives it.

        Args:
            former: confirmed by one message pair unless it has expired; else its address is asked for.
            taken: is asked about an address that the server gave. If it fails or is cancelled, the address is
                given back.
            timeout_s: the bound of it all.

        Raises:
            HostError: no server gave an address in time, or there is no such link.
            Conflict: all that the server gave is used by others.
        """
        wanted = None if former is None else former.address.ip
        reboot = former is not None and (former.lease_s is None or time.time() < former.obtained + former.lease_s)
        return await self._acquired(_Acquisition(client, wanted, reboot=reboot), taken, timeout_s)

    async def _acquired(self, acquisition: _Acquisition, taken: Taken | None, timeout_s: float) -> DhcpLease:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await acquisition.run(taken)
        except TimeoutError:
            if not limit.expired():
                raise
            raise acquisition.failure(timeout_s) from None

    def keep(self, owner: str, client: DhcpClient, lease: DhcpLease) -> None:
        """Renew a lease from now on, and replace it if it is lost; one whose time to renew has passed at once."""
        self.forget(owner)
        kept = self._kept[owner] = _Kept(client, lease)
        kept.task = asyncio.create_task(self._stay(owner, kept, lease))

    def release(self, owner: str) -> None:
        """Give a kept lease back to its server, if that can be told; unknown owners have nothing to give."""
        kept = self._dropped(owner)
        if kept is not None and kept.lease is not None:
            self.give_back(kept.client, kept.lease)

    def give_back(self, client: DhcpClient, lease: DhcpLease) -> None:
        """Give back a lease that is not kept, such as one that nothing came of."""
        with contextlib.suppress(HostError), _Exchange(client, 0) as exchange:
            exchange.send(release(client, exchange.xid, lease))

    def forget(self, owner: str) -> None:
        """Renew no more; the server has the address in use until the lease ends."""
        self._dropped(owner)

    async def close(self) -> None:
        """Forget all leases: the containers live on, and the next daemon keeps them."""
        tasks = [kept.task for kept in self._kept.values()]
        for owner in list(self._kept):
            self.forget(owner)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dropped(self, owner: str) -> _Kept | None:
        kept = self._kept.pop(owner, None)
        # `changed` may forget the owner that it is told of: the task ends by itself then.
        if kept is not None and kept.task is not asyncio.current_task():
            kept.task.cancel()
        return kept

    async def _stay(self, owner: str, kept: _Kept, lease: DhcpLease) -> None:
        while True:
            renewed = await self._renewed(kept.client, lease)
            if renewed is None:
                kept.lease = None
                if not await self._tell(owner, kept):
                    return
                renewed = await self._regained(kept.client, lease)
            lease = kept.lease = renewed
            if not await self._tell(owner, kept):
                return

    async def _tell(self, owner: str, kept: _Kept) -> bool:
        """Tell of the lease; returns whether it is still kept after that."""
        try:
            await self._changed(owner, kept.lease)
        except Exception:
            log.exception("what follows from a DHCP lease failed", owner=owner)
        return self._kept.get(owner) is kept

    async def _renewed(self, client: DhcpClient, lease: DhcpLease) -> DhcpLease | None:
        """Wait, and renew in time; None if the lease ended or the server refuses it (RFC 2131 section 4.4.5)."""
        loop = asyncio.get_running_loop()
        if lease.lease_s is None or lease.renew_s is None or lease.rebind_s is None:
            await asyncio.Event().wait()  # never
            return None
        # From here on by a clock that nobody sets.
        start = loop.time() - max(0.0, time.time() - lease.obtained)
        rebind, end = start + lease.rebind_s, start + lease.lease_s
        least = min(_LEAST_S, lease.lease_s * _LEAST_SHARE)
        await asyncio.sleep(start + lease.renew_s - loop.time())
        while (now := loop.time()) < end:
            limit = end if now >= rebind else rebind
            following = min(now + max((limit - now) / 2, least), limit)
            try:
                renewed = await self._asked(client, lease, now >= rebind, min(following - now, _RENEWAL_S))
            except _Refused as refusal:
                log.info("DHCP server refuses to renew", address=str(lease.address.ip), reason=shortened(str(refusal)))
                return None
            if renewed is not None:
                return renewed
            await asyncio.sleep(following - loop.time())
        return None

    async def _asked(self, client: DhcpClient, lease: DhcpLease, anybody: bool, wait_s: float) -> DhcpLease | None:
        """Send one request for more time; None if nobody answers it."""
        with contextlib.suppress(HostError), _Exchange(client, asyncio.get_running_loop().time()) as exchange:
            return await exchange.ask(
                lambda secs: renewal(client, exchange.xid, secs, lease, anybody),
                (wait_s,),
                _verdict(time.time(), None if anybody else lease.server),
            )
        return None

    async def _regained(self, client: DhcpClient, lost: DhcpLease) -> DhcpLease:
        """Begin anew until a server answers."""
        for pause in _backing_off(_BACKOFF_S):
            acquisition = _Acquisition(client, lost.address.ip, reboot=False)
            try:
                # The container may go on using the address, so nobody is asked whether it is free.
                return await self._acquired(acquisition, None, _ATTEMPT_S)
            except PynetError as error:
                log.info("no new DHCP lease yet", link=client.link, reason=str(error))
            await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")
