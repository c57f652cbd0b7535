"""HintPort on Unix sockets and terminals; virtio-serial ports are in tests/vm."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.guest.io import hint_port as module
from garp_agent.guest.io.hint_port import BATCH, CHUNK, CHUNKS, RETRY, HintPort, PortState
from garp_agent.wire.lines import LINE_LIMIT, Overlong
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0


class Host:
    """Listens on a socket; `sock` is the connection that the port made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(LIMIT)

    def accept(self) -> socket.socket:
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(LIMIT)
        return self.sock

    def close(self) -> None:
        self.listener.close()
        if hasattr(self, "sock"):
            self.sock.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "hint")
    yield made
    made.close()


def opened(name: str, now: float = 0.0) -> HintPort:
    port = HintPort(name)
    port.attempt(now)
    return port


@pytest.fixture
def port(host: Host) -> Iterator[HintPort]:
    made = opened(str(host.path))
    host.accept()
    assert lines(made) == []  # the first edge: the socket is writable
    yield made
    made.close()


class Terminal:
    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            assert select.select([self.master], [], [], LIMIT)[0]
            data += os.read(self.master, 1 << 16)
        return data

    def hang_up(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            os.close(self.slave)
            self.master = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.hang_up()


@pytest.fixture
def tty_port(terminal: Terminal) -> Iterator[HintPort]:
    made = opened(terminal.path)
    lines(made)
    yield made
    made.close()


def lines(port: HintPort, now: float = 1.0) -> list[bytes | Overlong]:
    return [line for _, line in port.read(now)]


def wait_for_line(port: HintPort) -> bytes | Overlong:
    found: list[bytes | Overlong] = []
    while not found:
        assert select.select([port], [], [], LIMIT)[0]
        found += lines(port)
    (line,) = found
    return line


def reply(port: HintPort, data: bytes) -> None:
    port.reply(port._descriptor, data)


def is_ready(port: HintPort) -> bool:
    return bool(select.select([port], [], [], 0)[0])


# -- sockets --------------------------------------------------------------------------------


def test_lines_are_read_and_replies_are_written(port: HintPort, host: Host) -> None:
    assert port.state is PortState.HOST_CONNECTED
    assert not is_ready(port)
    host.sock.sendall(b"one\ntwo\r\n\nthr")
    assert is_ready(port)
    assert lines(port) == [b"one", b"two"]
    assert not is_ready(port)
    host.sock.sendall(b"ee\n" + b"x" * (LINE_LIMIT + 2) + b"\nhalf\xffnext\n")
    read = list(port.read(1.0))
    assert [line for _, line in read] == [b"three", Overlong(LINE_LIMIT), b"next"]
    client = read[0][0]
    port.reply(client, b"answer\n")
    port.reply(client + 1, b"for another client\n")
    port.reply(client, b"end\n")
    assert host.sock.recv(100) == b"answer\nend\n"


@pytest.mark.parametrize("pattern", [b"x", b"\n", b"\xff", b"BURST\n"])
def test_one_read_is_bounded_and_the_next_one_follows_by_itself(
    port: HintPort, host: Host, pattern: bytes
) -> None:
    def unread() -> int:
        count = fcntl.ioctl(port._descriptor, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    host.sock.setblocking(False)
    total = 0
    while True:
        try:
            total += host.sock.send(pattern * 1000)
        except BlockingIOError:
            break
    assert total > CHUNKS * CHUNK
    turns = 0
    while is_ready(port):
        before = unread()
        assert len(lines(port)) <= BATCH + CHUNK // len(b"BURST\n")
        assert before - unread() <= CHUNKS * CHUNK
        turns += 1
    assert unread() == 0
    assert turns >= 2


def test_a_host_that_does_not_read_loses_whole_replies(port: HintPort, host: Host) -> None:
    for number in range(10_000):
        reply(port, b"%0100d\n" % number)
    host.sock.sendall(b"still there\n")
    assert lines(port) == [b"still there"]
    received = b""
    host.sock.setblocking(False)
    while True:
        try:
            received += host.sock.recv(1 << 16)
        except BlockingIOError:
            break
    whole = received.splitlines()
    assert whole == [b"%0100d" % number for number in range(len(whole))]
    assert 0 < len(whole) < 10_000
    reply(port, b"later\n")
    assert host.sock.recv(100) == b"later\n"


def test_a_socket_that_the_host_closes_is_opened_again_after_a_while(
    port: HintPort, host: Host
) -> None:
    host.sock.sendall(b"last line\nhalf a li")
    host.sock.close()
    assert lines(port) == [b"last line"]
    assert port.state is PortState.ABSENT
    assert not port.is_open()
    assert not is_ready(port)
    reply(port, b"to no host\n")

    port.attempt(RETRY - 0.001)
    assert port.state is PortState.ABSENT
    port.attempt(RETRY)
    host.accept().sendall(b"again\n")
    assert lines(port) == [b"again"]
    assert (port.state, port.error) == (PortState.HOST_CONNECTED, 0)


def test_a_full_backlog_means_busy(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(tmp_path / "hint"))
        listener.listen(0)
        other.connect(str(tmp_path / "hint"))
        port = opened(str(tmp_path / "hint"))
        assert (port.state, port.error) == (PortState.BUSY, errno.EAGAIN)
        port.close()


# -- terminals ------------------------------------------------------------------------------


def test_a_terminal_is_raw(terminal: Terminal, tty_port: HintPort) -> None:
    modes = termios.tcgetattr(terminal.slave)[3]
    assert isinstance(modes, int)
    assert not modes & (termios.ECHO | termios.ICANON | termios.ISIG)
    everything = bytes(byte for byte in range(256) if byte not in b"\n\r\xff")
    os.write(terminal.master, everything + b"\n")
    assert wait_for_line(tty_port) == everything
    reply(tty_port, everything + b"\n")
    assert terminal.read_until(b"\n") == everything + b"\n"  # no echo before it


def test_a_reply_that_fits_in_part_does_not_spoil_the_next(
    terminal: Terminal, tty_port: HintPort
) -> None:
    reply(tty_port, b"x" * 1_000_000 + b"\n")
    data, number = b"", 0
    while not data.endswith(b"\n"):
        number += 1
        reply(tty_port, b"%d\n" % number)
        assert select.select([terminal.master], [], [], LIMIT)[0]
        data += os.read(terminal.master, 1 << 16)
    torn, *whole = data.splitlines()
    assert set(torn) == set(b"x")
    assert len(torn) < 1_000_000
    assert whole
    assert set(whole) <= {b"%d" % n for n in range(number + 1)}


def test_a_terminal_that_is_hung_up_is_closed(terminal: Terminal, tty_port: HintPort) -> None:
    os.write(terminal.master, b"last line\nhalf")
    assert wait_for_line(tty_port) == b"last line"
    terminal.hang_up()
    assert select.select([tty_port], [], [], LIMIT)[0]
    assert lines(tty_port) == []
    assert tty_port.state in (PortState.ABSENT, PortState.FAILED)
    assert not is_ready(tty_port)
    tty_port.attempt(RETRY)
    assert tty_port.state is PortState.ABSENT


# -- what cannot be opened ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "number"),
    [
        ("", PortState.OFF, 0),
        ("/dev/zero", PortState.FORBIDDEN, errno.EPERM),  # it does not support polling
        ("/proc/self/status", PortState.ABSENT, errno.ENODEV),
        ("/tmp", PortState.ABSENT, errno.ENODEV),
        ("/dev/tty", PortState.ABSENT, errno.ENXIO),  # there is no controlling terminal
        ("/does/not/exist", PortState.ABSENT, errno.ENOENT),
        ("closed socket", PortState.ABSENT, errno.ECONNREFUSED),
    ],
)
def test_what_cannot_be_a_port_has_a_state_and_an_error(
    tmp_path: Path, name: str, state: PortState, number: int
) -> None:
    if name == "closed socket":
        name = str(tmp_path / name)
        Host(Path(name)).close()
    if name == "/dev/tty" and os.path.exists("/dev/tty"):
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
            pytest.skip("this process has a controlling terminal")
        except OSError:
            pass
    before = open_descriptors()
    port = HintPort(name)
    for now in (0.0, RETRY, 2 * RETRY):
        port.attempt(now)
        assert (port.state, port.error, port.path) == (state, number, name)
        assert not is_ready(port)
    port.close()
    assert open_descriptors() == before


def test_a_port_is_opened_once_there_are_descriptors_again(host: Host) -> None:
    port = HintPort(str(host.path))
    with descriptors_left(0):
        port.attempt(0.0)
    assert (port.state, port.error) == (PortState.FAILED, errno.EMFILE)
    port.attempt(RETRY)
    assert port.state is PortState.HOST_CONNECTED
    port.close()


def test_a_virtio_port_is_found_by_udevs_link_or_in_sysfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name, sysfs = tmp_path / "virtio-ports", tmp_path / "class"
    monkeypatch.setattr(module, "BY_NAME", f"{by_name}/")
    monkeypatch.setattr(module, "SYSFS", str(sysfs))
    assert module.find("org.garp_agent.0") == ""
    for node, name in (("vport1p1", "org.other"), ("vport1p2", "org.garp_agent.0")):
        (sysfs / node).mkdir(parents=True)
        (sysfs / node / "name").write_text(f"{name}\n")
    (sysfs / "vport2p1").mkdir()  # a console port has no name
    assert module.find("org.garp_agent.0") == "/dev/vport1p2"
    by_name.mkdir()
    (by_name / "org.garp_agent.0").touch()
    assert module.find("org.garp_agent.0") == f"{by_name}/org.garp_agent.0"
    assert module.find("org.garp_agent") == ""
