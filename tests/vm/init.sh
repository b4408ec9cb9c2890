#!/bin/busybox sh
# The initial file system's init: loads what the disk needs and goes over to it.
/bin/busybox mount -t devtmpfs none /dev
for m in /modules/*.ko; do
    /bin/busybox insmod "$m"
done
/bin/busybox mount -t ext4 -o rw /dev/vda /root || echo "FAIL boot: the disk does not mount"
exec /bin/busybox switch_root /root /bin/sh /root/start.sh
