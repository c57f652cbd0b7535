"""The hint port over Unix sockets and terminal lines, with literal times."""

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
    """Listens; `line` is the agent's connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(LIMIT)

    def accept(self) -> socket.socket:
        self.line, _ = self.listener.accept()
        self.line.settimeout(LIMIT)
        return self.line

    def close(self) -> None:
        self.listener.close()
        if hasattr(self, "line"):
            self.line.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "hint")
    yield made
    made.close()


@pytest.fixture
def port(host: Host) -> Iterator[HintPort]:
    made = HintPort(str(host.path))
    made.attempt(0.0)
    host.accept()
    assert list(made.read(0.0)) == []  # the edge of its being writable
    yield made
    made.close()


class Terminal:
    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def hang_up(self) -> None:
        """The host's end goes, for good."""
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
def line(terminal: Terminal) -> Iterator[HintPort]:
    made = HintPort(terminal.path)
    made.attempt(0.0)
    list(made.read(0.0))
    yield made
    made.close()


def heard(port: HintPort, count: int) -> list[bytes | Overlong]:
    """So many lines; a terminal line takes its time."""
    lines: list[bytes | Overlong] = []
    while len(lines) < count:
        assert select.select([port], [], [], LIMIT)[0]
        lines += port.read(1.0)
    return lines


def said(terminal: Terminal, end: bytes) -> bytes:
    """What came out of the line, up to and with `end`."""
    data = b""
    while not data.endswith(end):
        assert select.select([terminal.master], [], [], LIMIT)[0]
        data += os.read(terminal.master, 1 << 16)
    return data


def is_ready(port: HintPort) -> bool:
    return bool(select.select([port], [], [], 0)[0])


# -- a socket -------------------------------------------------------------------------------


def test_lines_and_replies(port: HintPort, host: Host) -> None:
    assert port.state is PortState.HOST_CONNECTED
    assert not is_ready(port)
    host.line.sendall(b"one\ntwo\r\n\nthr")
    assert is_ready(port)
    assert list(port.read(1.0)) == [b"one", b"two"]
    assert not is_ready(port)
    host.line.sendall(b"ee\n")
    assert list(port.read(1.0)) == [b"three"]
    port.reply(b"answer\n", 1.0)
    assert host.line.recv(100) == b"answer\n"


def test_a_line_too_long_and_a_delimiter(port: HintPort, host: Host) -> None:
    host.line.sendall(b"x" * (LINE_LIMIT + 2) + b"\nhalf\xffnext\n")
    assert list(port.read(1.0)) == [Overlong(LINE_LIMIT), b"next"]


@pytest.mark.parametrize("what", [b"x", b"\n", b"\xff", b"BURST\n"])
def test_one_turn_reads_so_much_and_no_more(port: HintPort, host: Host, what: bytes) -> None:
    """And the next turn comes by itself, though the edge is over."""
    host.line.setblocking(False)
    total = 0
    while True:
        try:
            total += host.line.send(what * 1000)
        except BlockingIOError:
            break
    assert total > CHUNKS * CHUNK
    turns = 0
    while is_ready(port):
        before = unread(port)
        assert len(list(port.read(1.0))) <= BATCH + CHUNK // len(b"BURST\n")
        assert before - unread(port) <= CHUNKS * CHUNK
        turns += 1
    assert unread(port) == 0
    assert turns >= 2


def unread(port: HintPort) -> int:
    """Bytes that the port could read."""
    return int.from_bytes(fcntl.ioctl(port._descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_host_that_does_not_read_loses_replies(port: HintPort, host: Host) -> None:
    for number in range(10_000):
        port.reply(b"%0100d\n" % number, 1.0)
    host.line.sendall(b"still there\n")
    assert list(port.read(1.0)) == [b"still there"]
    received = b""
    host.line.setblocking(False)
    while True:
        try:
            received += host.line.recv(1 << 16)
        except BlockingIOError:
            break
    whole = received.splitlines()
    assert whole == [b"%0100d" % number for number in range(len(whole))]
    assert 0 < len(whole) < 10_000
    port.reply(b"later\n", 1.0)
    assert host.line.recv(100) == b"later\n"


def test_a_host_that_hangs_up(port: HintPort, host: Host) -> None:
    host.line.sendall(b"last words\nhalf a li")
    host.line.close()
    assert list(port.read(1.0)) == [b"last words"]
    assert port.state is PortState.ABSENT
    assert not is_ready(port)
    port.reply(b"to nobody\n", 1.0)

    port.attempt(RETRY - 0.1)
    assert port.state is PortState.ABSENT
    port.attempt(RETRY)
    host.accept().sendall(b"again\n")
    assert list(port.read(RETRY)) == [b"again"]
    assert (port.state, port.error) == (PortState.HOST_CONNECTED, 0)


def test_attempts_are_rare(tmp_path: Path) -> None:
    port = HintPort(str(tmp_path / "hint"))
    port.attempt(0.0)
    assert (port.state, port.error) == (PortState.ABSENT, errno.ENOENT)
    host = Host(tmp_path / "hint")
    port.attempt(RETRY - 0.001)
    assert port.state is PortState.ABSENT
    port.attempt(RETRY)
    assert (port.state, port.error) == (PortState.HOST_CONNECTED, 0)
    port.close()
    host.close()


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    Host(tmp_path / "hint").close()
    port = HintPort(str(tmp_path / "hint"))
    port.attempt(0.0)
    assert (port.state, port.error) == (PortState.ABSENT, errno.ECONNREFUSED)
    port.close()


def test_a_socket_that_is_busy(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(tmp_path / "hint"))
        listener.listen(0)
        other.connect(str(tmp_path / "hint"))
        port = HintPort(str(tmp_path / "hint"))
        port.attempt(0.0)
        assert (port.state, port.error) == (PortState.BUSY, errno.EAGAIN)
        port.close()


# -- a terminal line ------------------------------------------------------------------------


def test_a_terminal_line_is_raw(terminal: Terminal, line: HintPort) -> None:
    modes = terminal.attributes()[3]
    assert isinstance(modes, int)
    assert not modes & (termios.ECHO | termios.ICANON | termios.ISIG)
    everything = bytes(byte for byte in range(256) if byte not in b"\n\r\xff")
    os.write(terminal.master, everything + b"\n")
    assert heard(line, 1) == [everything]
    line.reply(everything + b"\n", 1.0)
    assert said(terminal, b"\n") == everything + b"\n"  # and no echo before it


def test_a_reply_of_which_a_part_fits(terminal: Terminal, line: HintPort) -> None:
    line.reply(b"x" * 1_000_000 + b"\n", 1.0)
    data, number = b"", 0
    while not data.endswith(b"\n"):
        number += 1
        line.reply(b"%d\n" % number, 1.0)
        assert select.select([terminal.master], [], [], LIMIT)[0]
        data += os.read(terminal.master, 1 << 16)
    torn, *whole = data.splitlines()
    assert set(torn) == set(b"x")
    assert len(torn) < 1_000_000
    assert whole
    assert set(whole) <= {b"%d" % n for n in range(number + 1)}


def test_a_terminal_line_that_is_hung_up(
    terminal: Terminal, line: HintPort, tmp_path: Path
) -> None:
    os.write(terminal.master, b"last words\nhalf")
    assert heard(line, 1) == [b"last words"]
    terminal.hang_up()
    assert select.select([line], [], [], LIMIT)[0]
    assert list(line.read(2.0)) == []
    assert line.state in (PortState.ABSENT, PortState.FAILED)
    assert not is_ready(line)
    line.attempt(RETRY)
    assert line.state is PortState.ABSENT


# -- what is no port ------------------------------------------------------------------------


def test_off(tmp_path: Path) -> None:
    port = HintPort("")
    port.attempt(0.0)
    assert (port.state, port.path) == (PortState.OFF, "")
    assert not is_ready(port)
    port.close()


@pytest.mark.parametrize(
    ("name", "state", "number"),
    [
        ("/dev/zero", PortState.FORBIDDEN, errno.EPERM),  # nothing can wait on it
        ("/proc/self/status", PortState.ABSENT, errno.ENODEV),
        ("/tmp", PortState.ABSENT, errno.ENODEV),
        ("/dev/tty", PortState.ABSENT, errno.ENXIO),  # no controlling terminal
        ("/nobody/there", PortState.ABSENT, errno.ENOENT),
    ],
)
def test_what_is_no_port(name: str, state: PortState, number: int) -> None:
    if name == "/dev/tty" and os.path.exists("/dev/tty"):
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
            pytest.skip("there is a controlling terminal")
        except OSError:
            pass
    before = open_descriptors()
    port = HintPort(name)
    for now in (0.0, RETRY, 2 * RETRY):
        port.attempt(now)
        assert (port.state, port.error) == (state, number)
    port.close()
    assert open_descriptors() == before


def test_out_of_descriptors_it_tries_again(host: Host) -> None:
    port = HintPort(str(host.path))
    with descriptors_left(0):
        port.attempt(0.0)
    assert (port.state, port.error) == (PortState.FAILED, errno.EMFILE)
    port.attempt(RETRY)
    assert port.state is PortState.HOST_CONNECTED
    port.close()


# -- names ----------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    by_name, sysfs = tmp_path / "virtio-ports", tmp_path / "class"
    monkeypatch.setattr(module, "BY_NAME", f"{by_name}/")
    monkeypatch.setattr(module, "SYSFS", str(sysfs))
    return by_name, sysfs


def test_a_port_is_found_by_its_name(places: tuple[Path, Path]) -> None:
    by_name, sysfs = places
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
