"""A network and IPAM driver for Docker, spoken to over libnetwork's remote protocol.

Rooms, from the engine's side to the kernel's: `server` (HTTP), `messages` (wire types), `driver` and
`ipam` (what Docker asks for), `journal` (nothing lost), `backends` (what a network looks like),
`kernel` (links, rules, host ports), `store` (what was answered).
"""

__version__ = "0.2.0"
