"""Runs a test's commands inside a guest; the guest's process 1.

Speaks JSON lines over the virtio port ``test.control``: a request has an ``id``, an
``operation`` and its arguments; the reply has the same ``id`` with a ``result`` or an
``error``.  Requests run in parallel, each in a thread of its own.  A host which goes
away and comes back (as after a migration) finds the server as it was.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import traceback
from typing import Any

PORT_NAME = "test.control"
AGENT_PATH = "/opt/garp"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "PYTHONPATH": AGENT_PATH,
    "PYTHONDONTWRITEBYTECODE": "1",
}

_processes: dict[int, subprocess.Popen[bytes]] = {}
_namespace: dict[str, Any] = {}
_writing = threading.Lock()


def run(command: list[str], timeout: float, stdin: str) -> dict[str, Any]:
    """A command to its end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
        errors="replace",
    )
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise TimeoutError(f"{command} after {timeout} s; it said {out!r} {err!r}") from None
    return {"status": process.returncode, "stdout": out, "stderr": err}


def spawn(command: list[str], output: str) -> int:
    """A command in the background, its output in a file; its process number."""
    with open(output, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
        )
    _processes[process.pid] = process
    return process.pid


def signal(pid: int, number: int) -> None:
    """A signal to a process started by :func:`spawn`."""
    _processes[pid].send_signal(number)


def wait(pid: int, timeout: float) -> int:
    """The exit status of a process started by :func:`spawn`, once it has ended."""
    return _processes[pid].wait(timeout)


def running(pid: int) -> bool:
    """Whether a process started by :func:`spawn` still runs."""
    return _processes[pid].poll() is None


def read(path: str) -> str:
    """A file's text."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path: str, text: str) -> None:
    """A file with this text."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def python(source: str, arguments: dict[str, Any]) -> Any:
    """Runs source in a namespace that lasts; what it left in ``result``."""
    _namespace["result"] = None
    _namespace.update(arguments)
    exec(compile(source, "<test>", "exec"), _namespace)
    return _namespace["result"]


OPERATIONS = {
    function.__name__: function
    for function in (run, spawn, signal, wait, running, read, write, python)
}


def answer(port: int, request: dict[str, Any]) -> None:
    """Does what one request says and writes the reply."""
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
    """A virtio port, found by its name: no udev makes links here."""
    folder = "/sys/class/virtio-ports"
    for node in os.listdir(folder):
        if read(f"{folder}/{node}/name").strip() == name:
            return os.open(f"/dev/{node}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    raise FileNotFoundError(name)


def serve(port: int) -> None:
    """Reads requests for ever; waits by edges, since a port without a host is always readable."""
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


def main() -> None:
    """Serves; says so on the console, which is what a test waits for."""
    port = open_port(PORT_NAME)
    print("control: ready", flush=True)
    serve(port)


if __name__ == "__main__":
    main()
