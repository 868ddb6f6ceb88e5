"""A network and IPAM driver for Docker, spoken to over libnetwork's remote protocol.

Packages, from the engine's side to the kernel's: `docker` (requests and answers), `networks` (use cases), `addresses`,
`state` (records and the journal), `backends` (what a network looks like), `kernel` and `firewall` (links, host ports,
rules), `store` (SQLite). docs/architecture.md has all of them.
"""

__version__ = "0.2.0"
