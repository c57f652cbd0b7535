#!/bin/sh
# The first process of a test guest: what a program needs to run, the drivers of the
# ports and NICs, and then the server that runs the test's commands.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
while read -r module; do
    insmod "/modules/$module.ko" || echo "init: $module failed"
done </modules/boot-order
ip link set lo up
exec python3 -S /opt/garp/guest_control.py
