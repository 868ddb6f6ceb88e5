#!/bin/busybox sh
# The first process of the virtual machine: finds the disk and goes on with systemd, or init.sh.
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 /dev/vda /root
# The second disk is a plain archive of the project.
/bin/busybox tar -x -f /dev/vdb -C /root/project
/bin/busybox mount --move /dev /root/dev
# The kernel hands on words of its command line that it does not know.
if [ "${pynet_init-}" = systemd ]; then
    exec /bin/busybox switch_root /root /sbin/init
fi
exec /bin/busybox switch_root /root /bin/sh /project/tests/vm/init.sh
