"""Finds the device of a hint port by the port's name.

Opens no port.  virtio-serial: udev's link, or else sysfs, because a minimal guest has no udev.
A Xen channel has its name in xenstore only, where root may read it: drivers/tty/hvc/hvc_xen.c.
For others a udev rule makes a link (contrib/udev/80-garp-agent.rules).
"""

from __future__ import annotations

import os

LINKS = ("/dev/virtio-ports/", "/dev/xen-channels/")  # folders with udev's links
SYSFS = "/sys/class/virtio-ports"
XENBUS = "/dev/xen/xenbus"  # there in guests of Xen only, which alone load wire.xenbus
CONSOLES = "device/console"  # in xenstore, below the guest's own domain


def find(name: str, xenbus: str = XENBUS) -> str:
    """Return the path of the port called ``name``; "" if there is none."""
    for folder in LINKS:
        if os.path.exists(folder + name):
            return folder + name
    return _in_sysfs(name) or (_in_xenstore(name, xenbus) if os.path.exists(xenbus) else "")


def _in_sysfs(name: str) -> str:
    try:
        nodes = os.listdir(SYSFS)
    except OSError:
        return ""
    for node in nodes:
        try:
            with open(f"{SYSFS}/{node}/name", "rb") as file:
                if file.read(256).strip() == name.encode():
                    return "/dev/" + node
        except OSError:
            continue
    return ""


def _in_xenstore(name: str, xenbus: str) -> str:
    """Return the terminal of a Xen channel.

    Linux numbers the terminals in the order of the consoles, and so does xl.
    """
    try:
        from garp_agent.runtime.xenbus import Xenbus

        with Xenbus(xenbus) as store:
            for number in store.names(CONSOLES):
                if number.isdecimal() and store.read(f"{CONSOLES}/{number}/name") == name:
                    return f"/dev/hvc{number}"
    except (OSError, ImportError):
        pass
    return ""
