#!/bin/sh
# Make the disk of the virtual machine. It runs in mount and pid namespaces of its own; see image.py.
#
# usage: disk.sh ROOT DOWNLOADS IMAGE TARGET SIZE
set -eu
root=$1 downloads=$2 image=$3 target=$4 size=$5

# The kept root stays as it is: what is added lives in a tmpfs.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/merged
new=/mnt/merged
mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" "$new"

mkdir "$new/downloads"
mount --bind "$downloads" "$new/downloads"
mount --rbind /dev "$new/dev"
install="/venv/bin/python -m pip install -qq --disable-pip-version-check --no-index --find-links /downloads"
chroot "$new" python3 -m venv /venv
# Those without an archive of their own are compiled with what is there then.
chroot "$new" sh -ec "$install setuptools; $install /downloads/*.whl; $install --no-build-isolation /downloads/*.tar.gz"
umount -l "$new/dev" "$new/downloads"
rmdir "$new/downloads"

mkdir -p "$new/project" "$new/lab"
cp "$image" "$new/lab/busybox.tar"
echo pynet-vm >"$new/etc/hostname"
printf '127.0.0.1 localhost pynet-vm\n::1 localhost\n' >"$new/etc/hosts"
mke2fs -q -t ext4 -d "$new" "$target" "$size"
