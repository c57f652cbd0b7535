#!/bin/sh
# The first process of a test machine: mounts, drivers, then the control server.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/console >/dev/console 2>&1
while read -r module; do
    insmod "/modules/$module.ko" || echo "init: $module failed"
done </modules/boot-order
ip link set lo up
exec python3 -S /opt/garp/guest_control.py
