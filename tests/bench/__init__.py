"""The benchmark: the engine's own drivers and pynet, in the same engine and the same run.

usage: make bench, or python -m tests.bench [--quick] [--only NAME ...] [--no-write]

| module      | what it owns                                                                  |
|-------------|-------------------------------------------------------------------------------|
| measure     | repeating in turn, medians, ratios and their spread, the rows of the table     |
| engine_side | what a user of docker waits for: starts, ports, connections, throughput        |
| lan_side    | the same on macvlan and ipvlan: starts, throughput between host and container  |
| daemon_side | what pynet itself takes: time in its calls, memory, a restart, a thousand of all |
| parent_side | the same on a parent: a thousand endpoints, leases of a DHCP server            |
| virtual     | a measurement in QEMU, for what this machine's kernel has not                  |
| traffic     | the small clients and servers, run as programs in network namespaces           |
| report      | docs/benchmark.md and docs/benchmark.svg                                       |
"""
