"""The lab: real Docker Engines and a second machine, all in network namespaces of this machine.

Needs root. Nothing of the machine's own network, mounts or engine is touched.

| module  | what it owns                                                       |
|---------|--------------------------------------------------------------------|
| command | running one command with a time limit and a readable failure       |
| netns   | network namespaces, and the cables between them                    |
| unix    | HTTP over a Unix socket, as the engine speaks to a plugin          |
| wait    | polling for a condition, or waiting for one's turn                 |
| roots   | root file systems of the engines, built once and kept              |
| image   | the busybox image that every engine gets                           |
| machine | a root file system, a mount and a pid namespace: all but the kernel |
| cgroup  | the cgroups of a machine that is no more                           |
| engine  | dockerd on such a machine, and its client                          |
| lan     | a second machine beside an engine                                  |
| daemon  | the plugin daemon under test                                       |
| sweep   | what a killed test run has left                                    |
"""
