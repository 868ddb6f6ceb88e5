#!/bin/sh
# Make this process the init of a lab machine. It runs in a fresh mount and pid
# namespace and in the machine's network namespace; see machine.py.
#
# usage: machine.sh ROOT FOLDER nft|legacy      ends when its stdin ends
set -eu
lower=$1 folder=$2 iptables=$3
root=$folder/root

# The machine's changes live in a tmpfs: the kept root stays as it is, and `/` itself
# can be the root, which it could not with a change folder on its own file system.
mount -t tmpfs tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/merged"
mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$root/upper,workdir=$root/work" "$root/merged"
new=$root/merged

mount -t proc proc "$new/proc"
# sysfs shows the devices of the network namespace that mounts it; it comes without
# cgroups, and whatever tree the host has is taken over as it is.
mount -t sysfs sysfs "$new/sys"
mount --rbind /sys/fs/cgroup "$new/sys/fs/cgroup"
mount --rbind /dev "$new/dev"
mount -t tmpfs tmpfs "$new/run"
mkdir -p "$new/run/lock" "$new/run/docker/plugins" "$new/etc/docker" "$new/var/lib/docker"
mkdir -p "$new$folder/shared"
mount --bind "$folder/plugins" "$new/run/docker/plugins"
mount --bind "$folder/data" "$new/var/lib/docker"
mount --bind "$folder/shared" "$new$folder/shared"
# A configuration or plugin of the host's own engine must not show here.
for place in /etc/docker /usr/lib/docker/plugins; do
    [ ! -d "$new$place" ] || mount -t tmpfs tmpfs "$new$place"
done
rm -f "$new/etc/resolv.conf"
echo 'nameserver 192.0.2.2' >"$new/etc/resolv.conf"
for name in iptables ip6tables; do
    for tool in $name $name-save $name-restore; do
        [ ! -e "$new/etc/alternatives/$tool" ] ||
            ln -sf "/usr/sbin/$name-$iptables${tool#"$name"}" "$new/etc/alternatives/$tool"
    done
done

# Not chroot: `docker exec` would land in the host's own root.
mkdir "$new/.pnlab"
cd "$new"
pivot_root . .pnlab
cd /
umount -l /.pnlab
rmdir /.pnlab
# As systemd does: what is mounted later shows below folders that are mounted elsewhere with propagation.
mount --make-rshared /

# The shell is a good init while it waits: it collects every orphan. When the end of
# the pipe goes, by whatever death of its holder, the kernel ends all that runs in here.
# (A plain `<&0` would be /dev/null here.)
exec 3<&0
cat <&3 >/dev/null &
echo booted
wait $!
