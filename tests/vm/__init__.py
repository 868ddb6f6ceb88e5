"""Debian's kernel in a virtual machine, for what this machine's own kernel lacks: ipvlan, VLAN links, dummy.

No KVM is needed: QEMU translates every instruction, so all takes five to ten times as long.

| module   | what it owns                                                             |
|----------|--------------------------------------------------------------------------|
| __main__ | the command: tests in there, and those of whole hosts                    |
| image    | kernel, initramfs and disk, built once and kept                          |
| machine  | QEMU: start, run a command inside, pull the plug                         |
| agent    | inside: runs the commands that come through a port                       |
| host     | a user's host in there: uplink, pynet and engine, by hand or by systemd |
| kernel   | whether a kernel has what a test names by `@pytest.mark.needs_kernel`    |

`initramfs.sh` finds the disk, `init.sh` or systemd is process 1 from then on, `disk.sh` makes the disk.
The tests of this folder run outside, and only when they are named: they start machines of their own.
"""
