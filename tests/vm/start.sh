#!/bin/sh
# Process 1 of a guest: mounts what a real machine has, runs the guest script that the kernel's
# command line names, and switches the machine off.
export PATH=/bin:/usr/bin HOME=/root TERM=dumb
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
mount --make-rshared /
for m in /modules/*.ko; do
    insmod "$m"
done
hostname guest
ip link set lo up
exec </dev/null >/dev/console 2>&1
cd /root || exit 1
guest=$(sed -n 's/.*guest=\([^ ]*\).*/\1/p' /proc/cmdline)
GUEST_CPU=$(sed -n 's/.*guest_cpu=\([^ ]*\).*/\1/p' /proc/cmdline)
GUEST_PLACE=$(sed -n 's/.*guest_place=\([^ ]*\).*/\1/p' /proc/cmdline)
export GUEST_CPU GUEST_PLACE
echo
sh "/root/$guest"
sync
poweroff -f
