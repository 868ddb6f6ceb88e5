"""A DHCPv4 client for addresses that others use: it speaks for containers from the host (RFC 2131).

`messages` turns frames into data and back, `client` is the state machine. The messages are our own, since
pyroute2.dhcp (0.9) loses what leases need: it strips the fields that option 52 puts options into, keeps the last
part alone of an option that came in several (RFC 3396), drops all options behind one that is damaged, raises
IndexError at an empty option 61 and misses the UDP header behind IP options. Its client has one lease for a link's
own MAC, and waits 4 s before it asks again.
"""

from pynetdriver.lan.dhcp.client import LeaseManager
from pynetdriver.model import DhcpClient

__all__ = ["DhcpClient", "LeaseManager"]
