"""ControlSocket with real clients."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import stat
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
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


class Server:
    """A control socket, and the clients that the tests connect to it."""

    def __init__(self, path: str, stack: ExitStack) -> None:
        self.control = stack.enter_context(closing(ControlSocket(path)))
        self.read, self.reply = self.control.read, self.control.reply
        self._stack = stack

    def connect(self, count: int = 1, *, accept: bool = True) -> list[socket.socket]:
        made = [self._stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for client in made:
            client.settimeout(LIMIT)
            client.connect(self.control.path)
            assert not accept or self.read(0.0) == []
        return made

    def is_ready(self) -> bool:
        return bool(select.select([self.control], [], [], 0)[0])

    def lines(self) -> list[bytes | Overlong]:
        """Read everything; reply to each line with its repr."""
        found = []
        while self.is_ready():
            for client, line in self.read(0.0):
                found.append(line)
                self.reply(client, b"%r\n" % (line,))
        return found

    def assert_serves(self, client: socket.socket) -> None:
        client.sendall(b"hello\n")
        assert self.lines() == [b"hello"]
        assert client.recv(9) == b"b'hello'\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
def server(path: str) -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(path, stack)


# -- lines ----------------------------------------------------------------------------------


def test_each_client_has_its_own_lines_and_replies(server: Server) -> None:
    clients = server.connect(3)
    for number, client in enumerate(clients):
        client.sendall(b"line %d\nhalf" % number)
    read = server.read(0.0)
    assert [line for _, line in read] == [b"line 0", b"line 1", b"line 2"]
    for sender, line in reversed(read):
        server.reply(sender, b"to %r\n" % (line,))
    for number, client in enumerate(clients):
        assert client.recv(13) == b"to b'line %d'\n" % number
    assert not server.is_ready()
    clients[1].sendall(b" a line\r\n" + b"x" * (LINE_LIMIT + 1) + b"\nnext\n")
    assert server.lines() == [b"half a line", Overlong(LINE_LIMIT), b"next"]


def test_line_of_a_new_client_is_read_in_the_turn_that_accepts_it(server: Server) -> None:
    """In a flood of hints, each turn takes milliseconds."""
    [client] = server.connect(accept=False)
    client.sendall(b"hello\n")
    [(sender, line)] = server.read(0.0)
    assert line == b"hello"
    server.reply(sender, b"and you\n")
    assert client.recv(8) == b"and you\n"


def test_one_line_of_a_client_is_read_at_a_time(server: Server) -> None:
    eager, other = server.connect(2)
    eager.sendall(b"0\n1\n2\n")
    for expected in (b"0", b"1"):
        ((sender, line),) = server.read(0.0)
        assert line == expected
        server.reply(sender, b"ok\n")
        assert eager.recv(3) == b"ok\n"
    other.sendall(b"me too\n")
    assert [line for _, line in server.read(0.0)] == [b"2", b"me too"]


def test_client_that_does_not_read_delays_only_itself(server: Server) -> None:
    slow, quick = server.connect(2)
    slow.sendall(b"first\nsecond\n")
    slow.sendall(b"third\n")
    ((sender, line),) = server.read(0.0)
    assert line == b"first"
    reply = b"x" * 3_000_000 + b"\n"
    server.reply(sender, reply)
    assert not server.is_ready()
    server.assert_serves(quick)

    received = b""
    found: list[bytes | Overlong] = []
    answers = b"b'second'\nb'third'\n"
    while len(received) < len(reply + answers):
        received += slow.recv(1 << 20)
        found += server.lines()
        # By then the kernel has all of the reply.
        assert not found or len(received) > len(reply) - 1_000_000
    assert received == reply + answers
    assert found == [b"second", b"third"]


def test_lines_beyond_one_chunk_stay_in_the_kernel(server: Server) -> None:
    server.connect()[0].sendall(b"x\n" * (3 * CHUNK // 2))
    ((descriptor, _),) = server.read(0.0)
    server.reply(descriptor, b"ok\n")
    unread = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    assert int.from_bytes(unread, sys.byteorder) == 2 * CHUNK


def test_client_that_closes_its_sending_side_gets_its_replies(server: Server) -> None:
    [client] = server.connect()
    client.sendall(b"question\nanother\n")
    client.shutdown(socket.SHUT_WR)
    assert server.lines() == [b"question", b"another"]
    assert client.recv(100) == b"b'question'\nb'another'\n"


def test_replies_to_a_client_that_has_gone_are_dropped(server: Server) -> None:
    [client] = server.connect()
    client.sendall(b"question\n")
    ((sender, _),) = server.read(0.0)
    client.close()
    for _ in range(2):
        server.reply(sender, b"answer\n")
        server.reply(sender, b"answer\n")
        assert server.lines() == []


def test_one_client_too_many_displaces_the_one_that_was_silent_longest(server: Server) -> None:
    first, second, *_ = server.connect(CLIENTS)
    server.assert_serves(first)
    [late] = server.connect()
    assert second.recv(1) == b""
    server.assert_serves(late)
    server.assert_serves(first)


# -- the path -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_modes_do_not_depend_on_the_umask(path: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        control = ControlSocket(path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(os.stat(each).st_mode) for each in (path, os.path.dirname(path))]
    assert modes == [0o660, 0o755]
    control.close()
    assert not os.path.exists(path)


def test_stale_socket_is_replaced_and_one_with_a_full_backlog_is_not(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as there, socket.socket(socket.AF_UNIX) as client:
        there.bind(path)
        there.listen(0)
        client.connect(path)
        with pytest.raises(AlreadyRunningError):
            ControlSocket(path)
        assert os.path.exists(path)
    with ExitStack() as stack:
        server = Server(path, stack)
        server.assert_serves(*server.connect())


def test_close_leaves_the_socket_of_another_daemon(path: str) -> None:
    with closing(ControlSocket(path)):
        os.unlink(path)
        other = ControlSocket(path)
    assert os.path.exists(path)
    other.close()
    assert not os.path.exists(path)


def test_second_daemon_is_refused_and_the_first_goes_on(path: str, server: Server) -> None:
    with pytest.raises(AlreadyRunningError) as caught:
        ControlSocket(path)
    assert caught.value.filename == path
    assert server.lines() == []
    server.assert_serves(*server.connect())


@pytest.mark.parametrize(
    ("name", "text"),
    # Python itself refuses the long path.
    [("file", "no socket"), ("x" * 200, "too long"), ("file/below", "Not a directory")],
)
def test_path_that_cannot_be_a_socket_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_text("precious")
    before = open_descriptors()
    with pytest.raises(OSError, match=text):
        ControlSocket(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert open_descriptors() == before


# -- no descriptors -------------------------------------------------------------------------


@pytest.mark.parametrize("left", range(4))
def test_too_few_descriptors_for_the_socket_are_an_error(path: str, left: int) -> None:
    before = open_descriptors()
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        ControlSocket(path)
    assert open_descriptors() == before
    with descriptors_left(4):
        ControlSocket(path).close()


def test_client_without_a_descriptor_is_hung_up_on(server: Server) -> None:
    waiting = server.connect(3, accept=False)
    with descriptors_left(0):
        for _ in waiting:
            assert server.is_ready()
            assert server.read(0.0) == []
        assert not server.is_ready()
    assert [client.recv(1) for client in waiting] == [b""] * 3
    server.assert_serves(*server.connect())


def test_accepting_pauses_when_not_even_the_spare_descriptor_is_left(server: Server) -> None:
    [client] = server.connect(accept=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert server.is_ready()
        assert server.read(10.0) == []
        server.control.attempt(10.0 + ACCEPT_RETRY - 0.001)
        assert not server.is_ready()
        server.control.attempt(10.0 + ACCEPT_RETRY)
        assert server.is_ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.read(0.0) == []
    server.assert_serves(client)


def _start_at_once(path: str, count: int) -> list[str]:
    """Let so many processes open the socket at the same moment; return what each says."""
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            os.close(go_write)
            os.read(go_read, 1)  # until the parent closes its end
            try:
                kept = ControlSocket(path)
            except AlreadyRunningError:
                os.write(said_write, b"second\n")
            except BaseException as error:
                os.write(said_write, f"{error!r}\n".encode())
            else:
                os.write(said_write, b"first\n")
                signal.pause()
                kept.close()
            os._exit(0)
        children.append(child)
    os.close(go_read)
    os.close(go_write)
    said = b""
    while said.count(b"\n") < count:
        said += os.read(said_read, 4096)
    os.close(said_read)
    os.close(said_write)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said.decode().splitlines()


def test_one_of_many_daemons_that_start_at_once_gets_the_socket(path: str) -> None:
    """Each finds the socket that the last one left, and would replace it."""
    for _ in range(15):
        assert sorted(_start_at_once(path, 6)) == ["first"] + ["second"] * 5
