#!/bin/sh
# Process 1 of the virtual machine: prepares what a distribution's init would, then obeys the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
hostname -F /etc/hostname
ip link set lo up

# Nothing in here loads a module by itself in a namespace's name. Built-in ones count as loaded.
modprobe -a overlay bridge br_netfilter veth macvlan ipvlan 8021q dummy vxlan tun \
    nf_tables nf_nat nf_conntrack nf_conntrack_netlink nft_chain_nat nft_compat \
    xt_conntrack xt_MASQUERADE xt_addrtype xt_nat xt_mark xt_devgroup \
    ip_tables ip6_tables iptable_nat ip6table_nat iptable_filter ip6table_filter

cd /project || exit
# As a child: this shell collects every orphan while it waits.
python3 -IS tests/vm/agent.py /dev/vport*p1
sync
echo o >/proc/sysrq-trigger
sleep 60
