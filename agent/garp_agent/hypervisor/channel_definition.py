"""What gives a guest its channel: libvirt's XML, and the lines for plain QEMU and Proxmox VE.

Builds and reads text.  Does not talk to libvirt (cli.attach) and changes no guest.  No daemon
loads this module.

Sources: libvirt's formatdomain (Channel, Controllers); qemu(1), -chardev and -device; Proxmox VE's
qm.conf(5), args.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

_PLAIN_NAME = "[A-Za-z0-9][A-Za-z0-9._+-]*"  # needs no quoting in a shell or for QEMU
_QEMU_FOLDER = "/run/vms"
_PROXMOX_FOLDER = "/run/qemu-server"


class GuestNameError(Exception):
    """A guest's name that cannot be written into the lines; the text says what is allowed."""


def channel_xml(domain_xml: str, port: str) -> str:
    """Return the device that is a guest's channel.

    ``domain_xml``: of the guest; Xen has channels of its own.  ``port``: the name of the port.
    """
    kind = "xen" if is_xen(domain_xml) else "virtio"
    channel = ElementTree.Element("channel", type="unix")
    ElementTree.SubElement(channel, "source", mode="bind")
    ElementTree.SubElement(channel, "target", type=kind, name=port)
    channel.text = channel[0].tail = "\n  "
    channel[1].tail = "\n"
    return ElementTree.tostring(channel, encoding="unicode")


def has_channel(domain_xml: str, port: str) -> bool:
    """Return whether a guest has a port of this name."""
    targets = _parsed(domain_xml).findall("devices/channel/target")
    return any(target.get("name") == port for target in targets)


def is_xen(domain_xml: str) -> bool:
    """Return whether a guest belongs to libvirt's driver for Xen, which attaches no channel."""
    return _parsed(domain_xml).get("type") == "xen"


def with_channel(domain_xml: str, port: str) -> str:
    """Return a guest's configuration with the channel in it, for libvirt to define anew."""
    before, mark, after = domain_xml.rpartition("</devices>")
    return f"{before}{channel_xml(domain_xml, port)}{mark}{after}"


def has_controller(domain_xml: str) -> bool:
    """Return whether a guest has the controller that its channel needs, except on Xen."""
    controllers = _parsed(domain_xml).findall("devices/controller")
    return any(each.get("type") == "virtio-serial" for each in controllers)


def qemu_lines(guest: str, port: str) -> str:
    """Return options of QEMU, and how to find the channel.  Raises GuestNameError."""
    if not re.fullmatch(_PLAIN_NAME, guest):
        allowed = "letters, digits, and . _ + - behind the first character"
        raise GuestNameError(f"{guest}: not a name for these lines; allowed: {allowed}")
    options = "\n".join(_qemu_options(f"{_QEMU_FOLDER}/{guest}.garp", port))
    return (
        f"# Options for the QEMU of {guest}; {_QEMU_FOLDER} must exist:\n{options}\n"
        f"# Then: garp-hint watch --channel '{_QEMU_FOLDER}/*.garp'\n"
    )


def proxmox_line(guest: str, port: str) -> str:
    """Return a line for the configuration of a guest of Proxmox VE.

    ``guest``: its number.  Raises GuestNameError.
    """
    if not re.fullmatch("[1-9][0-9]*", guest):
        raise GuestNameError(
            f"{guest}: not a guest of Proxmox VE; allowed: a number, as in qm list"
        )
    options = " ".join(_qemu_options(f"{_PROXMOX_FOLDER}/{guest}.garp", port))
    return (
        f"# For /etc/pve/qemu-server/{guest}.conf; if it has args already, append the options:\n"
        f"args: {options}\n"
        f"# Then: garp-hint watch --channel '{_PROXMOX_FOLDER}/*.garp'\n"
    )


def _qemu_options(path: str, port: str) -> tuple[str, ...]:
    name = port.replace(",", ",,")  # QEMU's escape
    return (
        "-device virtio-serial-pci,id=garp",
        f"-chardev socket,id=garp0,path={path},server=on,wait=off",
        f"-device virtserialport,bus=garp.0,chardev=garp0,name={name}",
    )


def _parsed(domain_xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml)
