"""The control socket, with real clients."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.runtime.control_socket import CHUNK, CLIENTS, AlreadyRunningError, ControlSocket
from garp_agent.wire.lines import LINE_LIMIT, Overlong
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0


class Client:
    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(LIMIT)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self.sock.recv(count - len(data))):
            data += more
        return data


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
def control(path: str) -> Iterator[ControlSocket]:
    made = ControlSocket(path)
    yield made
    made.close()


@pytest.fixture
def clients(control: ControlSocket) -> Iterator[list[Client]]:
    """Three of them, accepted."""
    made = [Client(control.path) for _ in range(3)]
    for _ in made:
        assert control.read(0.0) == []
    yield made
    for client in made:
        client.sock.close()


def is_ready(control: ControlSocket) -> bool:
    return bool(select.select([control], [], [], 0)[0])


def lines(control: ControlSocket) -> list[bytes | Overlong]:
    """All that there is to read; each answered by itself."""
    found = []
    while is_ready(control):
        for client, line in control.read(0.0):
            found.append(line)
            control.reply(client, b"%r\n" % (line,))
    return found


# -- lines ----------------------------------------------------------------------------------


def test_a_line_is_answered_to_whom_it_came_from(
    control: ControlSocket, clients: list[Client]
) -> None:
    for number, client in enumerate(clients):
        client.send(b"line %d\n" % number)
    asked = control.read(0.0)
    assert [line for _, line in asked] == [b"line 0", b"line 1", b"line 2"]
    for sender, line in reversed(asked):
        assert isinstance(line, bytes)
        control.reply(sender, b"to %b\n" % line)
    for number, client in enumerate(clients):
        assert client.receive(10) == b"to line %d\n" % number
    assert not is_ready(control)


def test_lines_in_parts(control: ControlSocket, clients: list[Client]) -> None:
    first, second, _ = clients
    first.send(b"li")
    second.send(b"other\r\n")
    assert lines(control) == [b"other"]
    first.send(b"ne\nnext")
    assert lines(control) == [b"line"]
    first.send(b" line\n")
    assert lines(control) == [b"next line"]


def test_a_line_that_is_too_long(control: ControlSocket, clients: list[Client]) -> None:
    clients[0].send(b"x" * (LINE_LIMIT + 1) + b"\nnext\n")
    assert lines(control) == [Overlong(LINE_LIMIT), b"next"]


def test_a_client_is_heard_line_by_line(control: ControlSocket, clients: list[Client]) -> None:
    """However many it sends at once: the others, and the loop, come between them."""
    eager, other, _ = clients
    eager.send(b"".join(b"%d\n" % n for n in range(100)))
    for n in range(50):
        ((sender, line),) = control.read(0.0)
        assert line == b"%d" % n
        control.reply(sender, b"ok\n")
        assert eager.receive(3) == b"ok\n"
    other.send(b"me too\n")
    asked = control.read(0.0)
    assert [line for _, line in asked] == [b"50", b"me too"]
    for sender, _ in asked:
        control.reply(sender, b"ok\n")
    for n in range(51, 70):
        assert control.read(0.0) == [(asked[0][0], b"%d" % n)]
        control.reply(asked[0][0], b"ok\n")
    assert other.receive(3) == b"ok\n"


def test_no_line_is_taken_from_a_client_that_does_not_read(
    control: ControlSocket, clients: list[Client]
) -> None:
    slow, quick, _ = clients
    slow.send(b"first\nsecond\n")
    slow.send(b"third\n")
    ((sender, line),) = control.read(0.0)
    assert line == b"first"
    reply = b"x" * 3_000_000 + b"\n"
    control.reply(sender, reply)
    assert not is_ready(control)
    quick.send(b"hello\n")
    assert lines(control) == [b"hello"]

    received = b""
    found: list[bytes | Overlong] = []
    answers = b"b'second'\nb'third'\n"
    while len(received) < len(reply + answers):
        received += slow.sock.recv(1 << 20)
        found += lines(control)
        # By then the kernel has all of the reply.
        assert not found or len(received) > len(reply) - 1_000_000
    assert received == reply + answers
    assert found == [b"second", b"third"]


def test_a_client_that_closes_its_half_gets_its_reply(
    control: ControlSocket, clients: list[Client]
) -> None:
    clients[0].send(b"question\nanother\n")
    clients[0].sock.shutdown(socket.SHUT_WR)
    assert lines(control) == [b"question", b"another"]
    assert clients[0].receive(100) == b"b'question'\nb'another'\n"


def test_a_client_that_goes_before_its_reply(control: ControlSocket, clients: list[Client]) -> None:
    clients[0].send(b"question\n")
    ((sender, _),) = control.read(0.0)
    clients[0].sock.close()
    control.reply(sender, b"answer\n")
    control.reply(sender, b"answer\n")
    assert lines(control) == []
    control.reply(sender, b"answer\n")
    assert not is_ready(control)


def test_idle_clients_wake_nobody(control: ControlSocket, clients: list[Client]) -> None:
    clients[0].send(b"half a li")
    assert control.read(0.0) == []
    assert not is_ready(control)
    for client in clients:
        client.sock.close()
    assert lines(control) == []
    assert not is_ready(control)


def test_the_one_that_was_silent_longest_makes_room(control: ControlSocket) -> None:
    crowd = [Client(control.path) for _ in range(CLIENTS)]
    for _ in crowd:
        control.read(0.0)
    crowd[0].send(b"still here\n")
    assert lines(control) == [b"still here"]
    late = Client(control.path)
    control.read(0.0)
    assert crowd[1].receive(1) == b""
    late.send(b"late\n")
    crowd[0].send(b"still here\n")
    assert set(lines(control)) == {b"late", b"still here"}
    for client in (*crowd, late):
        client.sock.close()


# -- the path -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_mask(path: str, mask: int) -> None:
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


def test_a_stale_socket_is_replaced(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        stale.listen()
    control = ControlSocket(path)
    client = Client(path)
    control.read(0.0)
    client.send(b"hello\n")
    assert lines(control) == [b"hello"]
    control.close()
    client.sock.close()


def test_a_socket_that_was_replaced_is_left_alone(path: str) -> None:
    control = ControlSocket(path)
    os.unlink(path)
    other = ControlSocket(path)
    control.close()
    Client(path).sock.close()
    other.close()
    assert not os.path.exists(path)


def test_another_agent_is_left_alone(path: str, control: ControlSocket) -> None:
    with pytest.raises(AlreadyRunningError) as caught:
        ControlSocket(path)
    assert caught.value.filename == path
    # It saw somebody knock and go away.
    assert lines(control) == []
    client = Client(path)
    control.read(0.0)
    client.send(b"hello\n")
    assert lines(control) == [b"hello"]
    client.sock.close()


def test_another_agent_that_is_busy_is_left_alone(path: str) -> None:
    """Its queue is full: it does not answer, and is there all the same."""
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(AlreadyRunningError):
            ControlSocket(path)
        assert os.path.exists(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("file", "no socket"), ("x" * 200, "too long"), ("file/below", "Not a directory")],
)
def test_where_there_can_be_none(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_text("precious")
    before = open_descriptors()
    # Python itself refuses a path that is too long, without an errno.
    with pytest.raises(OSError, match=text):
        ControlSocket(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert open_descriptors() == before


@pytest.mark.parametrize("left", range(3))
def test_out_of_descriptors_at_the_start(path: str, left: int) -> None:
    before = open_descriptors()
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        ControlSocket(path)
    assert open_descriptors() == before
    with descriptors_left(3):
        ControlSocket(path).close()


def test_out_of_descriptors_a_client_is_hung_up_on(control: ControlSocket) -> None:
    waiting = [Client(control.path) for _ in range(3)]
    with descriptors_left(0):
        for _ in waiting:
            assert is_ready(control)
            assert control.read(0.0) == []
        assert not is_ready(control)
    for client in waiting:
        assert client.receive(1) == b""
        client.sock.close()
    later = Client(control.path)
    control.read(0.0)
    later.send(b"hello\n")
    assert lines(control) == [b"hello"]
    later.sock.close()


def test_what_one_client_pours_in_stays_with_the_kernel(
    control: ControlSocket, clients: list[Client]
) -> None:
    clients[0].send(b"x\n" * (3 * CHUNK // 2))
    ((descriptor, _),) = control.read(0.0)
    control.reply(descriptor, b"ok\n")
    unread = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    assert int.from_bytes(unread, sys.byteorder) == 2 * CHUNK
