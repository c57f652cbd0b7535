"""Executes a test's commands in a machine: process 1 of the test images.

Speaks JSON lines over the virtio port ``test.control``, or with the first client at a TCP
port if its number is given. A request has an ``id``, an
``operation`` and ``arguments``; the reply has the same ``id`` and a ``result`` or an
``error``. Each request has a thread of its own. The server outlives its connections, so a
machine can be moved to another QEMU.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

PORT_NAME = "test.control"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "PYTHONPATH": "/opt/garp",
    "PYTHONDONTWRITEBYTECODE": "1",
}

# What the source of `python` finds: the processes of `spawn`, by number.
_processes: dict[int, subprocess.Popen[bytes]] = {}
_namespace: dict[str, Any] = {"processes": _processes}
_writing = threading.Lock()


def run(command: list[str], stdin: str) -> tuple[int, str, str]:
    """Run a command to its end; return status, output and errors."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        env=ENVIRONMENT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def spawn(command: list[str], output: str) -> int:
    """Start a command in the background, its output in a file; return its process number."""
    with open(output, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
        )
    _processes[process.pid] = process
    return process.pid


def python(source: str, arguments: dict[str, Any]) -> Any:
    """Execute source in a namespace that lasts; return what it left in ``result``."""
    _namespace["result"] = None
    _namespace.update(arguments)
    exec(compile(source, "<test>", "exec"), _namespace)
    return _namespace["result"]


OPERATIONS: dict[str, Callable[..., Any]] = {"run": run, "spawn": spawn, "python": python}


def answer(port: int, request: dict[str, Any]) -> None:
    """Execute one request and write the reply."""
    reply: dict[str, Any] = {"id": request["id"]}
    try:
        reply["result"] = OPERATIONS[request["operation"]](**request["arguments"])
    except Exception:
        reply["error"] = traceback.format_exc()
    data = json.dumps(reply).encode() + b"\n"
    with _writing:
        while data:
            try:
                data = data[os.write(port, data) :]
            except BlockingIOError:
                select.select([], [port], [], 1.0)


def open_port(name: str) -> int:
    """Open a virtio port by its name: without udev there are no links in /dev."""
    folder = "/sys/class/virtio-ports"
    for node in os.listdir(folder):
        with open(f"{folder}/{node}/name", encoding="ascii") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{node}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    raise FileNotFoundError(name)


def accept(number: int) -> int:
    """Wait for a client at a TCP port; return the connection."""
    with socket.create_server(("", number)) as listener:
        connection, _ = listener.accept()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return connection.detach()


def serve(port: int) -> None:
    """Read requests; wait by edges, since a port without a host is always readable."""
    poller = select.epoll()
    poller.register(port, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    pending = b""
    while True:
        try:
            data = os.read(port, 4096)
        except BlockingIOError:
            data = b""
        if not data:
            poller.poll()
            continue
        *lines, pending = (pending + data).split(b"\n")
        for line in filter(None, lines):
            threading.Thread(target=answer, args=(port, json.loads(line)), daemon=True).start()


if __name__ == "__main__":
    print("control: ready", flush=True)
    serve(accept(int(sys.argv[1])) if len(sys.argv) > 1 else open_port(PORT_NAME))
