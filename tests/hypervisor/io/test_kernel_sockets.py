"""What the real kernel says about Unix sockets over sock_diag."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from garp_agent.hypervisor.io import kernel_sockets
from garp_agent.hypervisor.io.kernel_sockets import KernelSockets
from tests import golden


@pytest.fixture
def kernel() -> Iterator[KernelSockets]:
    with closing(KernelSockets()) as sockets:
        yield sockets


def listener(path: bytes, backlog: int = 5) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(backlog)
    return sock


def test_listening_socket_is_listed_until_it_is_closed(
    kernel: KernelSockets, short_path: Path
) -> None:
    path = os.fsencode(short_path / "a\nb\udcff")
    with listener(path) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        [found] = [each for each in kernel.listening() if each.name == path + b"\0"]
        assert found.inode == os.fstat(sock.fileno()).st_ino
        assert found.file is not None
        assert found.file.inode == os.stat(path).st_ino & 0xFFFFFFFF
        assert kernel.is_listening(found)
        assert not kernel.is_listening(found._replace(cookie=bytes(8)))
        client_inode = os.fstat(client.fileno()).st_ino
        assert not kernel.is_listening(found._replace(inode=client_inode, cookie=b"\xff" * 8))
    assert not kernel.is_listening(found)
    assert found.cookie not in [each.cookie for each in kernel.listening()]


def test_connection_is_accepted_when_the_listener_says_so(kernel: KernelSockets) -> None:
    """Another client that waits in the same queue changes nothing."""
    name = f"\0garp-agent-{os.getpid()}".encode()
    with listener(name) as sock, ExitStack() as stack:
        first, second = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in "12")
        first.connect(name)
        second.connect(name)
        assert not kernel.is_accepted(first)
        with sock.accept()[0]:
            assert kernel.is_accepted(first)
            assert not kernel.is_accepted(second)


def test_list_of_many_datagrams_is_whole(kernel: KernelSockets) -> None:
    names = {f"\0garp-agent-{os.getpid()}-{n:090}".encode() for n in range(700)}
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(listener(name))
        found = kernel.listening(twice=True)
    assert names <= {each.name for each in found}
    assert len({each.cookie for each in found}) == len(found)


def test_answer_that_is_cut_or_interrupted_is_an_error() -> None:
    whole = golden.read("sock_diag/listening")
    interrupted = bytearray(whole)
    interrupted[6] |= 0x10  # NLM_F_DUMP_INTR
    ended = golden.read("rtnetlink/dump-done")
    refused = golden.read("sock_diag/no-such-socket")
    cases = [(whole, (False, 0)), (whole[:-4], (False, errno.EBADMSG))]
    cases += [(bytes(interrupted), (False, errno.EINTR))]
    cases += [(ended, (True, 0)), (refused, (True, errno.ENOENT))]
    for datagram, expected in cases:
        assert kernel_sockets._take(datagram, []) == expected
