#!/bin/sh
# The first process of a Xen guest: mounts, drivers, then the control server on its second card.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/console >/dev/console 2>&1
. /modules/xen_netfront.load
ip link set lo up
until ip link set eth1 up; do sleep 0.1; done
ip addr add 198.51.100.2/24 dev eth1
exec python3 -S /opt/garp/guest_control.py 7
