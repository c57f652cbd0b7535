#!/bin/sh
# The first process of a test machine: mounts, drivers, then the control server.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/console >/dev/console 2>&1
for module in virtio_pci virtio_net virtio_console; do
    . "/modules/$module.load"
done
ip link set lo up
exec python3 -S /opt/garp/guest_control.py
