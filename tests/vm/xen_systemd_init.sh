#!/bin/sh
# The first process of a dom0 with systemd: mounts, drivers, then systemd itself.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
exec </dev/console >/dev/console 2>&1
busybox mkdir -p /run/xen /run/xenstored /run/lock
for module in virtio_pci virtio_net virtio_console; do
    . "/modules/$module.load"
done
ip link set lo up
exec /lib/systemd/systemd
