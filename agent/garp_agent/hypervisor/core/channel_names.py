"""Which socket is a guest's channel, and of which guest: from its path alone.

Does not look at files: hypervisor.io.channels does.  Known forms, where PORT is the name of the
port and libvirt cuts the guest's name after 20 characters:

  libvirt           /run/libvirt/qemu/channel/ID-NAME/PORT
  libvirt, older    /var/lib/libvirt/qemu/channel/target/domain-ID-NAME/PORT
  libvirt, oldest   /var/lib/libvirt/qemu/channel/target/domain-NAME/PORT, .../target/NAME.PORT
  libvirt on Xen    /var/lib/libvirt/libxl/channel/target/NAME-PORT
  OpenStack Nova    /var/lib/libvirt/qemu/PORT.NAME.sock

Sources: libvirt's src/qemu/qemu_domain.c and src/libxl/libxl_domain.c; nova/virt/libvirt/driver.py.
"""

from __future__ import annotations

CUT_AT = 20  # characters of a guest's name that libvirt keeps in a path
_NOVA_SUFFIX = ".sock"


def is_channel(path: str, port_name: str) -> bool:
    """Return whether a path has one of the known forms."""
    base = path.rpartition("/")[2]
    return base == port_name or bool(_name_in_base(base, port_name))


def guest_of(path: str, port_name: str) -> str:
    """Return the guest of a path of a known form; the path itself if it contains no name."""
    folder, _, base = path.rpartition("/")
    name = _name_in_base(base, port_name)
    if name:
        return name
    rest = folder.rpartition("/")[2]
    if rest.startswith("domain-"):  # libvirt's
        rest = rest[len("domain-") :]
    number, dash, name = rest.partition("-")
    return name if dash and name and number.isdecimal() else rest or path


def _name_in_base(base: str, port_name: str) -> str:
    """Return the guest's name in a file name; "" if there is none."""
    if base.startswith(port_name + ".") and base.endswith(_NOVA_SUFFIX):
        return base[len(port_name) + 1 : -len(_NOVA_SUFFIX)]
    if base.endswith(("." + port_name, "-" + port_name)):
        return base[: -len(port_name) - 1]
    return ""
