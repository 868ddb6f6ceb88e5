"""IpamDriver: what the engine asks for pools and addresses, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pynetdriver.addresses.pools import Pools
from pynetdriver.docker import messages as wire
from pynetdriver.errors import InvalidOption, InvalidRequest, shortened
from pynetdriver.options import ENGINE_OPTIONS
from pynetdriver.pool import parse_address, parse_subnet

LOCAL_SPACE = "pynet-local"
GLOBAL_SPACE = "pynet-global"


class IpamDriver:
    """Turns requests into pools and addresses, and these into answers."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    async def address_spaces(self) -> wire.AddressSpacesResponse:
        """Name the address spaces; two names, or the engine stops checking for overlaps."""
        return wire.AddressSpacesResponse(LOCAL_SPACE, GLOBAL_SPACE)

    async def request_pool(self, request: wire.RequestPoolRequest) -> wire.RequestPoolResponse:
        """Hold the pool that was asked for, or one that overlaps nothing."""
        if request.address_space not in (LOCAL_SPACE, GLOBAL_SPACE):
            raise InvalidRequest(f'address space "{shortened(request.address_space)}" is not one of pynet\'s')
        _refuse_options(request.options or {})
        if not request.pool and request.sub_pool:
            raise InvalidRequest("--ip-range needs a --subnet that it is a part of")
        version = 6 if request.v6 else 4
        subnet = parse_subnet(request.pool, "subnet") if request.pool else None
        if subnet is not None and subnet.version != version:
            raise InvalidRequest(f"subnet {subnet} is not an IPv{version} subnet")
        within = parse_subnet(request.sub_pool, "IP range") if request.sub_pool else None
        if within is not None and subnet is not None and within not in subnet:
            raise InvalidRequest(f"IP range {within} is not within subnet {subnet}")
        pool = await self._pools.hold(request.address_space, subnet, within, version)
        return wire.RequestPoolResponse(pool.id, str(pool.subnet))

    async def release_pool(self, request: wire.PoolRequest) -> wire.Empty:
        """Let a pool go with all its addresses."""
        self._pools.release(request.pool_id)
        return wire.Empty()

    async def request_address(self, request: wire.RequestAddressRequest) -> wire.RequestAddressResponse:
        """Hold the address that was asked for, or the next free one."""
        wanted = parse_address(request.address, "address") if request.address else None
        address = await self._pools.hold_address(request.pool_id, wanted)
        return wire.RequestAddressResponse(str(address))

    async def release_address(self, request: wire.ReleaseAddressRequest) -> wire.Empty:
        """Let an address go."""
        if self._pools.has(request.pool_id):
            self._pools.release_address(request.pool_id, parse_address(request.address, "address"))
        return wire.Empty()


def _refuse_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if not name.startswith(ENGINE_OPTIONS):
            raise InvalidOption.unknown(name, [], "IPAM option")
