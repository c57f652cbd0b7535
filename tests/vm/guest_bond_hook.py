"""Inside the hypervisor: asks qemu-ga in the guest to run arping when a bond fails over.

``guest_bond_hook.py PORT-NAME INTERFACE ADDRESS``: what an operator without this project
can do with the QEMU guest agent, where its ``guest-exec`` is allowed.  Here to compare with.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

import guest_control  # type: ignore[import-not-found]  # beside it in the guest

RTM_NEWLINK = 16
RTMGRP_LINK = 1
IFLA_EVENT = 44
BONDING_FAILOVER = 3


def event_of(message: bytes) -> int:
    """The IFLA_EVENT of an RTM_NEWLINK message; 0 if it has none (rtnetlink(7))."""
    at = 32
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("HH", message, at)
        if kind & 0x3FFF == IFLA_EVENT:
            return int(struct.unpack_from("I", message, at + 4)[0])
        at += (max(length, 4) + 3) & ~3
    return 0


def failed_over(data: bytes) -> bool:
    """Whether a bond has failed over, by what one datagram says."""
    while data:
        length, kind = struct.unpack_from("IH", data)
        if kind == RTM_NEWLINK and event_of(data[:length]) == BONDING_FAILOVER:
            return True
        data = data[(length + 3) & ~3 :]
    return False


def main() -> None:
    """Watches for ever."""
    name, interface, address = sys.argv[1:]
    arguments = {"path": "/usr/bin/arping", "arg": ["-U", "-c1", "-I", interface, address]}
    line = json.dumps({"execute": "guest-exec", "arguments": arguments}).encode() + b"\n"
    port = guest_control.open_port(name)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as heard:
        heard.bind((0, RTMGRP_LINK))
        print("watching", flush=True)
        while True:
            if failed_over(heard.recv(65536)):
                os.write(port, line)


if __name__ == "__main__":
    main()
