"""ControlSocket with real clients."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import stat
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from garp_agent.runtime.control_socket import (
    ACCEPT_RETRY,
    CHUNK,
    CLIENTS,
    AlreadyRunningError,
    ControlSocket,
)
from garp_agent.wire.lines import LINE_LIMIT, Overlong
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0
Connect = Callable[[], socket.socket]
Clients = list[socket.socket]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
def control(path: str) -> Iterator[ControlSocket]:
    with closing(ControlSocket(path)) as made:
        yield made


@pytest.fixture
def connect(path: str) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connected() -> socket.socket:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            client.settimeout(LIMIT)
            return client

        yield connected


@pytest.fixture
def clients(control: ControlSocket, connect: Connect) -> Clients:
    """Three accepted clients."""
    made = [connect() for _ in range(3)]
    assert [control.read(0.0) for _ in made] == [[]] * 3
    return made


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def is_ready(control: ControlSocket) -> bool:
    return bool(select.select([control], [], [], 0)[0])


def lines(control: ControlSocket) -> list[bytes | Overlong]:
    """Read everything; reply to each line with its repr."""
    found = []
    while is_ready(control):
        for client, line in control.read(0.0):
            found.append(line)
            control.reply(client, b"%r\n" % (line,))
    return found


def assert_serves(control: ControlSocket, client: socket.socket) -> None:
    control.read(0.0)
    client.sendall(b"hello\n")
    assert lines(control) == [b"hello"]
    assert receive(client, 9) == b"b'hello'\n"


# -- lines ----------------------------------------------------------------------------------


def test_each_client_has_its_own_lines_and_replies(
    control: ControlSocket, clients: Clients
) -> None:
    for number, client in enumerate(clients):
        client.sendall(b"line %d\nhalf" % number)
    read = control.read(0.0)
    assert [line for _, line in read] == [b"line 0", b"line 1", b"line 2"]
    for sender, line in reversed(read):
        control.reply(sender, b"to %r\n" % (line,))
    for number, client in enumerate(clients):
        assert receive(client, 13) == b"to b'line %d'\n" % number
    assert not is_ready(control)
    clients[1].sendall(b" a line\r\n" + b"x" * (LINE_LIMIT + 1) + b"\nnext\n")
    assert lines(control) == [b"half a line", Overlong(LINE_LIMIT), b"next"]


def test_one_line_of_a_client_is_read_at_a_time(control: ControlSocket, clients: Clients) -> None:
    eager, other, _ = clients
    eager.sendall(b"".join(b"%d\n" % n for n in range(100)))
    for n in range(50):
        ((sender, line),) = control.read(0.0)
        assert line == b"%d" % n
        control.reply(sender, b"ok\n")
        assert receive(eager, 3) == b"ok\n"
    other.sendall(b"me too\n")
    assert [line for _, line in control.read(0.0)] == [b"50", b"me too"]


def test_a_client_that_does_not_read_delays_only_itself(
    control: ControlSocket, clients: Clients
) -> None:
    slow, quick, _ = clients
    slow.sendall(b"first\nsecond\n")
    slow.sendall(b"third\n")
    ((sender, line),) = control.read(0.0)
    assert line == b"first"
    reply = b"x" * 3_000_000 + b"\n"
    control.reply(sender, reply)
    assert not is_ready(control)
    quick.sendall(b"hello\n")
    assert lines(control) == [b"hello"]

    received = b""
    found: list[bytes | Overlong] = []
    answers = b"b'second'\nb'third'\n"
    while len(received) < len(reply + answers):
        received += slow.recv(1 << 20)
        found += lines(control)
        # By then the kernel has all of the reply.
        assert not found or len(received) > len(reply) - 1_000_000
    assert received == reply + answers
    assert found == [b"second", b"third"]


def test_lines_beyond_one_chunk_stay_in_the_kernel(
    control: ControlSocket, clients: Clients
) -> None:
    clients[0].sendall(b"x\n" * (3 * CHUNK // 2))
    ((descriptor, _),) = control.read(0.0)
    control.reply(descriptor, b"ok\n")
    unread = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    assert int.from_bytes(unread, sys.byteorder) == 2 * CHUNK


def test_a_client_that_closes_its_sending_side_gets_its_replies(
    control: ControlSocket, clients: Clients
) -> None:
    clients[0].sendall(b"question\nanother\n")
    clients[0].shutdown(socket.SHUT_WR)
    assert lines(control) == [b"question", b"another"]
    assert receive(clients[0], 100) == b"b'question'\nb'another'\n"


def test_replies_to_a_client_that_has_gone_are_dropped(
    control: ControlSocket, clients: Clients
) -> None:
    clients[0].sendall(b"question\n")
    ((sender, _),) = control.read(0.0)
    clients[0].close()
    control.reply(sender, b"answer\n")
    control.reply(sender, b"answer\n")
    assert lines(control) == []
    control.reply(sender, b"answer\n")
    assert not is_ready(control)


def test_one_client_too_many_displaces_the_one_that_was_silent_longest(
    control: ControlSocket, connect: Connect
) -> None:
    crowd = [connect() for _ in range(CLIENTS)]
    for _ in crowd:
        control.read(0.0)
    assert_serves(control, crowd[0])
    late = connect()
    control.read(0.0)
    assert receive(crowd[1], 1) == b""
    assert_serves(control, late)
    assert_serves(control, crowd[0])


# -- the path -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_modes_do_not_depend_on_the_umask(path: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        control = ControlSocket(path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o755
    control.close()
    assert not os.path.exists(path)


@pytest.mark.parametrize("listens", [True, False])
def test_a_stale_socket_is_replaced_and_a_busy_one_is_not(
    path: str, connect: Connect, listens: bool
) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(path)
        there.listen(0)
        if listens:
            connect()  # fills the backlog
            with pytest.raises(AlreadyRunningError):
                ControlSocket(path)
            assert os.path.exists(path)
            return
    with closing(ControlSocket(path)) as control:
        assert_serves(control, connect())


def test_close_leaves_the_socket_of_another_daemon(path: str, connect: Connect) -> None:
    control = ControlSocket(path)
    os.unlink(path)
    other = ControlSocket(path)
    control.close()
    connect()
    other.close()
    assert not os.path.exists(path)


def test_a_second_daemon_is_refused_and_the_first_goes_on(
    path: str, control: ControlSocket, connect: Connect
) -> None:
    with pytest.raises(AlreadyRunningError) as caught:
        ControlSocket(path)
    assert caught.value.filename == path
    assert lines(control) == []
    assert_serves(control, connect())


@pytest.mark.parametrize(
    ("name", "text"),
    # Python itself refuses the long path.
    [("file", "no socket"), ("x" * 200, "too long"), ("file/below", "Not a directory")],
)
def test_a_path_that_cannot_be_a_socket_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_text("precious")
    before = open_descriptors()
    with pytest.raises(OSError, match=text):
        ControlSocket(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert open_descriptors() == before


# -- no descriptors -------------------------------------------------------------------------


@pytest.mark.parametrize("left", range(3))
def test_too_few_descriptors_for_the_socket_are_an_error(path: str, left: int) -> None:
    before = open_descriptors()
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        ControlSocket(path)
    assert open_descriptors() == before
    with descriptors_left(3):
        ControlSocket(path).close()


def test_a_client_without_a_descriptor_is_hung_up_on(
    control: ControlSocket, connect: Connect
) -> None:
    waiting = [connect() for _ in range(3)]
    with descriptors_left(0):
        for _ in waiting:
            assert is_ready(control)
            assert control.read(0.0) == []
        assert not is_ready(control)
    assert [receive(client, 1) for client in waiting] == [b""] * 3
    assert_serves(control, connect())


def test_accepting_pauses_when_not_even_the_spare_descriptor_is_left(
    control: ControlSocket, connect: Connect
) -> None:
    client = connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert is_ready(control)
        assert control.read(10.0) == []
        control.attempt(10.0 + ACCEPT_RETRY - 0.001)
        assert not is_ready(control)
        control.attempt(10.0 + ACCEPT_RETRY)
        assert is_ready(control)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_serves(control, client)
