"""Sockets in folders and in containers, and what a search finds of them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from garp_agent.hypervisor.io.channels import Finder

ROOT = Path(__file__).parents[3]
PORT = f"org.garp_agent.test{os.getpid()}"  # no other test's
ELSEWHERE = "it was made in another mount namespace, or its file was removed"


@contextlib.contextmanager
def listening(*paths: Path, kind: int = socket.SOCK_STREAM) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        listeners = []
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(str(path))
            listener.listen(1)
            listeners.append(listener)
        yield listeners


def found(finder: Finder) -> list[tuple[str, str]]:
    return [(channel.guest, channel.path) for channel in finder.find()]


@contextlib.contextmanager
def without_descriptors() -> Iterator[None]:
    """Let every attempt to open a file fail with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SERVE = """
import os, socket, sys
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    listener.detach()
print("listening", flush=True)
"""


@contextlib.contextmanager
def container(folder: Path, *paths: str, network: bool = False) -> Iterator[int]:
    """Listen on paths in a folder that only this process sees; yield its number.

    Its second process has the same root, and its folder `link` is an absolute link to `real`.
    """
    script = 'mount -t tmpfs tmpfs "$1" && ln -s "$1/real" "$1/link" && shift && exec "$@"'
    code = SERVE + "os.fork()\nsys.stdin.read()"
    command = ["unshare", "-mn" if network else "-m", "sh", "-c", script, "-", str(folder)]
    command += [sys.executable, "-c", code, *paths]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process.pid
        process.communicate()
