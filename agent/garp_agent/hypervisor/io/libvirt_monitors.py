"""QEMU monitors of libvirt's guests, as sockets that the watcher can use like QEMU's own.

libvirt is the only client of its guests' monitors, and passes commands through.  This makes one
socket for each running guest, NAME.qmp, and answers two commands: qmp_capabilities, and
announce-self, which libvirt passes on.  Runs in a child process of the watcher, because libvirt's
library is large, starts threads and can wait for libvirt's daemon.

Sources: virDomainQemuMonitorCommand in libvirt's libvirt-qemu.h; QEMU's qapi/net.json.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from contextlib import suppress
from typing import Any

from garp_agent.hypervisor.core.announce_self import ANNOUNCE_SELF, SCHEDULE

SEARCH = 2.0  # seconds between two searches for guests
PATIENCE = 30.0  # seconds for which a thread waits for its client
LINE_MOST = 4096  # bytes of one request
BACKLOG = 8
SUFFIX = ".qmp"
NAME_MOST = 107 - len(SUFFIX)  # bytes of a guest's name that fit into an address


def serve(uri: str, folder: str) -> None:
    """Serve monitors in ``folder`` until the process that started this has ended.

    ``uri``: of libvirt.  Raises ImportError without libvirt's Python library, libvirt.libvirtError
    if libvirt cannot be reached any more, and OSError.
    """
    import libvirt

    # By default the library prints each error itself, beside the exception.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(uri)
    os.chdir(folder)  # so that long paths fit into an address
    monitors = Monitors()
    parent = os.getppid()
    while os.getppid() == parent:
        domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        monitors.update({domain.name(): domain for domain in domains})
        monitors.accept(SEARCH)


class Monitors:
    """The sockets in the current folder, one for each guest."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._domains: dict[str, Any] = {}  # by name
        self._listeners: dict[str, socket.socket] = {}  # by name
        self._names: dict[int, str] = {}  # by descriptor

    def update(self, domains: dict[str, Any]) -> None:
        """Take in the guests that run now."""
        self._domains = {
            name: domain
            for name, domain in domains.items()
            if len(os.fsencode(name)) <= NAME_MOST and "/" not in name
        }
        for name in self._listeners.keys() - self._domains.keys():
            listener = self._listeners.pop(name)
            del self._names[listener.fileno()]
            listener.close()
            os.unlink(name + SUFFIX)
        for name in self._domains.keys() - self._listeners.keys():
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(name + SUFFIX)
            listener.listen(BACKLOG)
            self._listeners[name] = listener
            self._names[listener.fileno()] = name
            self._epoll.register(listener, select.EPOLLIN)

    def accept(self, seconds: float) -> None:
        """Serve the clients that come within ``seconds``, each in a thread."""
        for descriptor, _ in self._epoll.poll(seconds):
            name = self._names[descriptor]
            client, _ = self._listeners[name].accept()
            client.settimeout(PATIENCE)
            threading.Thread(
                target=_serve_client, args=(client, self._domains[name]), daemon=True
            ).start()


def _serve_client(client: socket.socket, domain: Any) -> None:
    with suppress(OSError), client, client.makefile("rb") as lines:
        for line in iter(lambda: lines.readline(LINE_MOST), b""):
            client.sendall(_reply(line, domain) + b"\n")


def _reply(line: bytes, domain: Any) -> bytes:
    try:
        request = json.loads(line)
        name, id = request["execute"], request.get("id")
    except (ValueError, TypeError, KeyError, AttributeError):
        return _encoded(None, _failure("not a command"))
    if name == "qmp_capabilities":
        return _encoded(id, {"return": {}})
    if name != ANNOUNCE_SELF:
        return _encoded(id, _failure(f"only {ANNOUNCE_SELF} is passed on"))
    return _encoded(id, _announced(domain))


def _announced(domain: Any) -> dict[str, Any]:
    """Return QEMU's reply, or libvirt's error in the same form."""
    import libvirt
    import libvirt_qemu

    command = json.dumps({"execute": ANNOUNCE_SELF, "arguments": SCHEDULE})
    try:
        reply: dict[str, Any] = json.loads(libvirt_qemu.qemuMonitorCommand(domain, command, 0))
    except libvirt.libvirtError as error:
        return _failure(str(error))
    return {name: reply[name] for name in ("return", "error") if name in reply}


def _failure(text: str) -> dict[str, Any]:
    return {"error": {"class": "GenericError", "desc": text}}


def _encoded(id: object, reply: dict[str, Any]) -> bytes:
    return json.dumps({**reply, "id": id}).encode()
