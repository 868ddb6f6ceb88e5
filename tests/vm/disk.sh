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

# They stay, for `make install` inside.
mkdir -p "$new/lab"
cp -r "$downloads" "$new/lab/wheels"
mount --rbind /dev "$new/dev"
chroot "$new" sh -eu <<'EOF'
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INDEX=1 PIP_FIND_LINKS=/lab/wheels PIP_NO_CACHE_DIR=1 PIP_QUIET=2
cd /lab/wheels
python3 -m venv /venv
/venv/bin/pip install setuptools
# Those without an archive of their own are compiled with what is there then.
/venv/bin/pip wheel --no-deps --no-build-isolation ./*.tar.gz
rm ./*.tar.gz
/venv/bin/pip install ./*.whl
EOF
umount -l "$new/dev"

# Where systemd is process 1: what obeys the host comes, what only takes time does not.
cp "$(dirname "$0")/agent.service" "$new/etc/systemd/system/"
systemctl="chroot $new systemctl -q"
$systemctl enable agent.service
$systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service serial-getty@ttyS0.service getty-static.service systemd-binfmt.service \
    modprobe@configfs.service modprobe@efi_pstore.service modprobe@drm.service modprobe@fuse.service
echo 70796e657470796e657470796e657421 >"$new/etc/machine-id"

mkdir "$new/project"
cp "$image" "$new/lab/busybox.tar"
echo pynet-vm >"$new/etc/hostname"
printf '127.0.0.1 localhost pynet-vm\n::1 localhost\n' >"$new/etc/hosts"
mke2fs -q -t ext4 -d "$new" "$target" "$size"
