#!/bin/sh
# xl runs this when a guest's card appears in dom0 or leaves: put it into its bridge.
set -e
[ "$1" = online ] || exit 0
ip link set "$vif" master "$(xenstore-read "$XENBUS_PATH/bridge")"
ip link set "$vif" up
xenstore-write "$XENBUS_PATH/hotplug-status" connected
