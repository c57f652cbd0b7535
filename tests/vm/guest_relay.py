"""Offers a virtio port as a Unix socket: in the hypervisor, the guest's hint port and monitor.

``guest_relay.py PORT-NAME SOCKET``. One client at a time, others wait in the backlog, as
with QEMU's own sockets. It cannot close the guest's end when a client leaves. With
ADDRESS:PORT in place of SOCKET it joins the port to a TCP server instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time

import guest_control  # type: ignore[import-not-found]  # beside it in the guest


def relay(port: int, client: socket.socket) -> None:
    """Copy bytes both ways until the client closes its end."""
    poller = select.poll()
    poller.register(port, select.POLLIN)
    poller.register(client, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == port:
                client.sendall(os.read(port, 4096))
            elif data := client.recv(4096):
                os.write(port, data)
            else:
                return


def connect(host: str, port: int) -> socket.socket:
    """Connect to a server as soon as it listens."""
    while True:
        try:
            return socket.create_connection((host, port), timeout=1.0)
        except OSError:
            time.sleep(0.05)


if __name__ == "__main__":
    name, path = sys.argv[1:]
    if path[0] != "/":
        host, _, number = path.partition(":")
        with connect(host, int(number)) as server:
            server.settimeout(None)
            relay(guest_control.open_port(name), server)
        sys.exit()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        opened = guest_control.open_port(name)
        while True:
            accepted, _ = listener.accept()
            # A watcher hangs up before the reply when a newer hint is more urgent.
            with accepted, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                relay(opened, accepted)
