"""Inside the hypervisor: a guest's hint port as a Unix socket, as QEMU itself offers it.

``guest_relay.py PORT-NAME SOCKET``: one client at a time, others wait in the backlog;
bytes go both ways as they come.  Unlike QEMU it cannot hang up on the guest.
"""

from __future__ import annotations

import os
import select
import socket
import sys

import guest_control  # type: ignore[import-not-found]  # beside it in the guest


def serve(port: int, listener: socket.socket) -> None:
    """One client after the other."""
    while True:
        client, _ = listener.accept()
        with client:
            _relay(port, client)


def _relay(port: int, client: socket.socket) -> None:
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


def main() -> None:
    """Serves the port named by the first argument at the path in the second."""
    name, path = sys.argv[1:]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serve(guest_control.open_port(name), listener)


if __name__ == "__main__":
    main()
