"""HintPort on Unix sockets and terminals; virtio-serial ports are in tests/vm."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, suppress
from math import inf
from pathlib import Path

import pytest

import garp_agent.guest.io
from garp_agent.guest.io.hint_port import (
    BATCH,
    CHUNK,
    CHUNKS,
    RARELY,
    REOPEN,
    RETRY,
    SETTLING,
    TERMINAL_REPLIES,
    HintPort,
    PortState,
)
from garp_agent.guest.io.port_names import XENBUS
from garp_agent.wire.lines import LINE_LIMIT, Overlong
from garp_agent.wire.xenbus import DEVICE
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "hint"))
        made.listen(0)
        made.settimeout(LIMIT)
        yield made


@pytest.fixture
def port(listener: socket.socket) -> Iterator[HintPort]:
    with closing(HintPort(listener.getsockname())) as made:
        made.attempt(0.0)
        yield made


@pytest.fixture
def host(port: HintPort, listener: socket.socket) -> Iterator[socket.socket]:
    with listener.accept()[0] as made:
        made.settimeout(LIMIT)
        assert lines(port) == []  # the first edge: the socket is writable
        yield made


class Terminal:
    """A pseudo-terminal; `port` has one end open, the host writes to and reads from `master`."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.port = HintPort(os.ttyname(self.slave))
        self.port.attempt(0.0)
        assert self.port.deadline() == SETTLING
        assert lines(self.port) == []
        self.port.attempt(SETTLING)
        assert self.port.deadline() == inf

    def line(self) -> bytes | Overlong:
        while not (found := lines(self.port)):
            assert select.select([self.port], [], [], LIMIT)[0]
        (line,) = found
        return line

    def output(self, least: int = 1) -> bytes:
        """Return what has come, at least so many bytes: the kernel passes them on in parts."""
        data = b""
        while len(data) < least:
            assert select.select([self.master], [], [], LIMIT)[0]
            data += os.read(self.master, 1 << 16)
        return data

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.port.close()
    if made.master >= 0:
        made.hang_up()
    os.close(made.slave)  # not before: another test could get the terminal that the port opens


def lines(port: HintPort, now: float = 1.0) -> list[bytes | Overlong]:
    return [line for _, line in port.read(now)]


def reply(port: HintPort, data: bytes) -> None:
    port.reply(port._descriptor, data)
    port.flush()


def is_ready(port: HintPort) -> bool:
    return bool(select.select([port], [], [], 0)[0])


# -- sockets --------------------------------------------------------------------------------


def test_lines_are_read_and_replies_are_written(port: HintPort, host: socket.socket) -> None:
    assert port.state is PortState.HOST_CONNECTED
    assert not is_ready(port)
    host.sendall(b"one\ntwo\r\n\nthr")
    assert is_ready(port)
    assert lines(port) == [b"one", b"two"]
    assert not is_ready(port)
    host.sendall(b"ee\n" + b"x" * (LINE_LIMIT + 2) + b"\nhalf\xffnext\n")
    read = list(port.read(1.0))
    assert [line for _, line in read] == [b"three", Overlong(LINE_LIMIT), b"next"]
    client = read[0][0]
    port.reply(client, b"answer\n")
    port.reply(client + 1, b"for another client\n")
    port.reply(client, b"end\n")
    port.flush()
    assert host.recv(100) == b"answer\nend\n"


def test_replies_to_one_chunk_leave_together_and_before_the_port_hangs_up(
    port: HintPort, host: socket.socket
) -> None:
    host.sendall(b"one\ntwo\n")
    host.shutdown(socket.SHUT_WR)
    reading = port.read(1.0)
    for answer in (b"first\n", b"second\n"):
        client, _ = next(reading)
        port.reply(client, answer)
        assert not select.select([host], [], [], 0)[0]
    assert list(reading) == []
    assert host.recv(100) == b"first\nsecond\n"
    assert host.recv(100) == b""


def test_a_port_that_was_never_open_is_looked_for_less_and_less(tmp_path: Path) -> None:
    with closing(HintPort(str(tmp_path / "absent"))) as port:
        pauses, now = [], 100.0
        for _ in range(5):
            port.attempt(now)
            pauses.append(port.attempt_at() - now)
            now = port.attempt_at()
        assert pauses == [RETRY, 10.0, 20.0, RARELY, RARELY]
        assert port.deadline() == inf


@pytest.mark.parametrize("pattern", [b"x", b"\n", b"\xff", b"BURST\n"])
def test_one_read_is_bounded_and_the_next_one_follows_by_itself(
    port: HintPort, host: socket.socket, pattern: bytes
) -> None:
    def unread() -> int:
        count = fcntl.ioctl(port._descriptor, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    host.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            host.send(pattern * 1000)
    assert unread() > CHUNKS * CHUNK
    while is_ready(port):
        before = unread()
        assert len(lines(port)) <= BATCH + CHUNK // len(b"BURST\n")
        assert before - unread() <= CHUNKS * CHUNK
    assert unread() == 0


def test_flood_of_requests_leaves_the_turn_to_others_after_a_few_chunks(
    port: HintPort, host: socket.socket
) -> None:
    """A request takes 40 us and more, and a client of the control socket waits for its turn."""
    request = b'{"execute": "burst", "arguments": {"reason": "flood"}}\n'
    host.sendall(request * 400)
    assert len(lines(port)) < 90
    host.sendall(b"BURST\n" * 400)
    while is_ready(port):
        assert len(lines(port)) < 90 + CHUNK // len(b"BURST\n")


def test_a_host_that_does_not_read_loses_whole_replies(port: HintPort, host: socket.socket) -> None:
    for number in range(10_000):
        reply(port, b"%0100d\n" % number)
    host.sendall(b"still there\n")
    assert lines(port) == [b"still there"]
    received = b""
    host.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            received += host.recv(1 << 16)
    whole = received.splitlines()
    assert whole == [b"%0100d" % number for number in range(len(whole))]
    assert 0 < len(whole) < 10_000
    reply(port, b"later\n")
    assert host.recv(100) == b"later\n"


def test_a_socket_that_the_host_closes_is_opened_again_after_a_while(
    port: HintPort, host: socket.socket, listener: socket.socket
) -> None:
    host.sendall(b"last line\nhalf a li")
    host.close()
    assert lines(port) == [b"last line"]
    assert (port.state, port.is_open(), is_ready(port)) == (PortState.ABSENT, False, False)
    reply(port, b"to no host\n")

    assert port.deadline() == 1.0 + REOPEN
    port.attempt(1.0 + REOPEN - 0.001)
    assert port.state is PortState.ABSENT
    port.attempt(1.0 + REOPEN)
    assert port.deadline() == inf
    with listener.accept()[0] as again:
        again.sendall(b"again\n")
        assert lines(port) == [b"again"]
        assert (port.state, port.error) == (PortState.HOST_CONNECTED, 0)


def test_attempts_after_a_hang_up_get_rarer_and_leave_the_wake_ups_to_the_caller(
    port: HintPort, host: socket.socket, listener: socket.socket
) -> None:
    pauses, now = [], 100.0
    for _ in range(9):  # it hangs up each time
        host.close()
        assert lines(port, now) == []
        pauses.append(round(port.deadline() - now, 3))
        now = port.deadline()
        port.attempt(now)
        host = listener.accept()[0]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, RETRY, RETRY, RETRY]
    host.close()
    assert lines(port, now + RETRY) == []  # it was open for a while
    listener.close()
    moments, now = [], port.deadline()
    while (now := port.deadline()) < inf:
        moments.append(now)
        port.attempt(now)
    assert [round(b - a, 3) for a, b in zip(moments, moments[1:])] == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert port.state is PortState.ABSENT


# -- terminals ------------------------------------------------------------------------------


def test_a_terminal_is_raw(terminal: Terminal) -> None:
    modes = termios.tcgetattr(terminal.slave)[3]
    assert not modes & (termios.ECHO | termios.ICANON | termios.ISIG)
    everything = bytes(byte for byte in range(256) if byte not in b"\n\r\xff")
    os.write(terminal.master, everything + b"\n")
    assert terminal.line() == everything
    reply(terminal.port, everything + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        data += terminal.output()
    assert data == b"\n" + everything + b"\n"  # no echo before it


def test_a_terminal_gets_few_replies_for_each_chunk(terminal: Terminal) -> None:
    os.write(terminal.master, b"q\n")
    terminal.line()
    reply(terminal.port, b"first\n")
    assert terminal.output(7) == b"\nfirst\n"
    for number in range(3):
        os.write(terminal.master, b"q\n")
        terminal.line()
        assert terminal.port.reply_limit == TERMINAL_REPLIES
        for left in (399, 98, 98):
            reply(terminal.port, b"%d" % number * 300 + b"\n")
            assert terminal.port.reply_limit == left
        assert terminal.output(602) == (b"%d" % number * 300 + b"\n") * 2


def test_what_waited_in_a_terminal_before_the_agent_opened_it_is_discarded() -> None:
    """A hint there is old; the first reply must not continue what the terminal has echoed."""
    terminal = Terminal()
    terminal.port.close()
    os.write(terminal.master, b"old\nhalf")
    with closing(HintPort(os.ttyname(terminal.slave))) as port:
        port.attempt(0.0)
        assert port.state is PortState.OPEN
        assert lines(port) == []
        os.write(terminal.master, b" a line\nolder\nhalf")
        assert select.select([port], [], [], LIMIT)[0]
        port.attempt(SETTLING)
        assert lines(port) == []
        os.write(terminal.master, b"new\n")
        assert select.select([port], [], [], LIMIT)[0]
        assert lines(port) == [b"new"]
        reply(port, b"answer\n")
        assert terminal.output(8) == b"\nanswer\n"
    terminal.hang_up()
    os.close(terminal.slave)


def test_a_reply_that_fits_in_part_does_not_spoil_the_next(terminal: Terminal) -> None:
    def ask(answer: bytes) -> None:
        os.write(terminal.master, b"q\n")
        terminal.line()
        reply(terminal.port, answer)

    ask(b"first\n")
    assert terminal.output(7) == b"\nfirst\n"
    while not terminal.port._torn:
        ask(b"x" * 600 + b"\n")
    data, number = b"", 0
    while not data.endswith(b"\n%d\n" % number):
        number += 1
        ask(b"%d\n" % number)
        data += terminal.output()
    numbers = {b"%d" % n for n in range(1, number + 1)}
    torn = [line for line in data.splitlines() if line not in {b"x" * 600, *numbers}]
    assert len(torn) == 1
    assert set(torn[0]) == set(b"x")


def test_a_terminal_that_is_hung_up_is_closed(terminal: Terminal) -> None:
    os.write(terminal.master, b"last line\nhalf")
    assert terminal.line() == b"last line"
    terminal.hang_up()
    assert select.select([terminal.port], [], [], LIMIT)[0]
    assert lines(terminal.port) == []
    assert terminal.port.state in (PortState.ABSENT, PortState.FAILED)
    assert not is_ready(terminal.port)
    terminal.port.attempt(RETRY)
    assert terminal.port.state is PortState.ABSENT


# -- what cannot be opened ------------------------------------------------------------------


LOADED = """
import sys
from garp_agent.guest.io import hint_port
hint_port.XENBUS = sys.argv[1]
hint_port.HintPort(sys.argv[2])
print(*sorted({"garp_agent.guest.io.terminal", "garp_agent.runtime.xenbus"} & {*sys.modules}))
"""


@pytest.mark.parametrize(
    ("xenbus", "name", "loaded"),
    [
        ("/does/not/exist", "org.garp_agent.0", ""),
        ("/does/not/exist", "/dev/ttyS1", "garp_agent.guest.io.terminal"),
        ("/dev/null", "org.garp_agent.0", "garp_agent.guest.io.terminal garp_agent.runtime.xenbus"),
    ],
)
def test_what_a_port_can_need_is_loaded_before_its_first_attempt(
    xenbus: str, name: str, loaded: str
) -> None:
    """A running agent may not find a file any more."""
    command = [sys.executable, "-c", LOADED, xenbus, name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    output = done.stdout
    assert output.strip() == loaded


def test_device_of_xenstore_is_that_of_the_format() -> None:
    """Named twice, so that a guest without Xen does not load the format."""
    assert XENBUS == DEVICE


def test_terminal_whose_module_cannot_be_loaded_has_failed_and_a_socket_works(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade can be half done when a reload names another port."""
    monkeypatch.delattr(garp_agent.guest.io, "terminal", raising=False)
    monkeypatch.setitem(sys.modules, "garp_agent.guest.io.terminal", None)
    master, slave = os.openpty()
    with closing(HintPort(listener.getsockname())) as port:
        port.attempt(0.0)
        assert port.is_open()
    with closing(HintPort(os.ttyname(slave))) as port:
        port.attempt(0.0)
        assert (port.state, port.error) == (PortState.FAILED, errno.ELIBACC)
    os.close(master)
    os.close(slave)


def has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


NO_TERMINAL = pytest.mark.skipif(has_terminal(), reason="there is a controlling terminal")


@pytest.mark.parametrize(
    ("name", "state", "number"),
    [
        ("", PortState.OFF, 0),
        ("/dev/zero", PortState.FORBIDDEN, errno.EPERM),  # it does not support polling
        ("/proc/self/status", PortState.FAILED, errno.EOPNOTSUPP),
        pytest.param("/dev/tty", PortState.ABSENT, errno.ENXIO, marks=NO_TERMINAL),
        ("/does/not/exist", PortState.ABSENT, errno.ENOENT),
        ("closed socket", PortState.ABSENT, errno.ECONNREFUSED),
        ("full backlog", PortState.BUSY, errno.EAGAIN),
    ],
)
def test_what_cannot_be_a_port_has_a_state_and_an_error(
    listener: socket.socket, tmp_path: Path, name: str, state: PortState, number: int
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(listener.getsockname())
        if name == "closed socket":
            listener.close()
        name = str(tmp_path / "hint") if " " in name else name
        before = open_descriptors()
        port = HintPort(name)
        for now in (0.0, RETRY, 2 * RETRY):
            port.attempt(now)
            assert (port.state, port.error, port.path) == (state, number, name)
            assert not is_ready(port)
        port.close()
        assert open_descriptors() == before


def test_a_port_is_opened_once_there_are_descriptors_again(listener: socket.socket) -> None:
    with closing(HintPort(listener.getsockname())) as port:
        with descriptors_left(0):
            port.attempt(0.0)
        assert (port.state, port.error) == (PortState.FAILED, errno.EMFILE)
        port.attempt(RETRY)
        assert port.state is PortState.HOST_CONNECTED
