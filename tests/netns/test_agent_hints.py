"""The hint port of the running daemon, over a Unix socket and over a terminal line."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import LIMIT, QUIET, Agent, Capture, until

# Ticks, at which a closed port is tried again.
TICKING = "interval: 200ms\ninterval_with_lease: 60s\njitter: 0%\nburst: [0s]\n"
TICKING += "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"


class Line:
    """The host's end, whatever it is made of: lines out, lines in."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.unread = b""

    def send(self, *lines: bytes) -> None:
        os.write(self.descriptor, b"".join(line + b"\n" for line in lines))

    def reply(self) -> dict[str, Any]:
        """The next line; a reply that begins with 0xFF ends whatever line was begun."""
        line = self.line()
        assert not line.endswith(b"\r"), "the line is not raw"
        return dict(json.loads(line.rpartition(b"\xff")[2]))

    def line(self) -> bytes:
        end = time.monotonic() + LIMIT
        while b"\n" not in self.unread:
            left = end - time.monotonic()
            assert select.select([self.descriptor], [], [], max(0.0, left))[0], "no reply"
            data = os.read(self.descriptor, 1 << 16)
            assert data, "the agent hung up"
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def ask(self, *lines: bytes) -> list[dict[str, Any]]:
        self.send(*lines)
        return [self.reply() for _ in lines]

    def close(self) -> None:
        os.close(self.descriptor)


class SocketHost:
    """Listens where the agent is told to connect to."""

    kind = "socket"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hint"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(LIMIT)
        self.listen()

    def listen(self) -> None:
        self.listener.bind(str(self.path))
        self.listener.listen()

    def connected(self) -> Line:
        connection, _ = self.listener.accept()
        return Line(connection.detach())

    def close(self) -> None:
        self.listener.close()


class TerminalHost:
    """A pseudoterminal: its slave is what a Xen guest has as /dev/hvc1."""

    kind = "terminal"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hint"

    def connected(self) -> Line:
        master, slave = os.openpty()
        new = self.path.with_suffix(".new")
        new.symlink_to(os.ttyname(slave))
        new.rename(self.path)
        # Not before the agent has made it raw: what comes earlier is echoed and edited.
        until(lambda: not termios.tcgetattr(slave)[3] & termios.ECHO, "the agent opens the line")
        os.close(slave)
        return Line(master)

    def close(self) -> None:
        pass


@pytest.fixture(params=[SocketHost, TerminalHost], ids=lambda host: host.kind)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = request.param(tmp_path)
    yield made
    made.close()


@pytest.fixture
def wire(tiny_lab: TinyLab) -> Iterator[Capture]:
    with Capture(tiny_lab) as capture:
        yield capture


def start(where: TinyLab, directory: Path, host: Any, config: str = QUIET) -> Agent:
    return Agent(where, directory, "--hint-port", str(host.path), config=config)


@contextmanager
def meeting(
    where: TinyLab, directory: Path, host: Any, config: str
) -> Iterator[tuple[Agent, Line]]:
    """An agent, and the host's line to it: there from the start, as there may be no tick."""
    with ThreadPoolExecutor(1) as pool:
        line = pool.submit(host.connected)
        until(lambda: host.path.exists() or line.done(), "there is something to open")
        with start(where, directory, host, config) as agent:
            yield agent, line.result()


@pytest.fixture
def hinted(tiny_lab: TinyLab, tmp_path: Path, host: Any) -> Iterator[tuple[Agent, Line]]:
    """An agent that announces only when told to, and the host's line to it."""
    with meeting(tiny_lab, tmp_path, host, QUIET) as (agent, line):
        yield agent, line
    line.close()


@pytest.fixture
def ticking(tiny_lab: TinyLab, tmp_path: Path, host: Any) -> Iterator[tuple[Agent, Line]]:
    """One that refreshes all the time."""
    with meeting(tiny_lab, tmp_path, host, TICKING) as (agent, line):
        yield agent, line


def test_a_plain_burst(hinted: tuple[Agent, Line], wire: Capture) -> None:
    agent, line = hinted
    wire.clear()
    for n in range(1, 4):
        (reply,) = line.ask(b"BURST")
        # The frames went out before the reply, so they have arrived.
        assert len(wire.announcements(GUEST_ADDRESS)) == n
        assert reply["return"]["frames"] == 1
    assert agent.sent_by("hint") == 3
    assert agent.status()["hint_port"]["requests"] == 3


def test_a_burst_in_rounds(hinted: tuple[Agent, Line], wire: Capture) -> None:
    agent, line = hinted
    wire.clear()
    asked = {"reason": "bond0: eth1 -> eth2", "count": 4, "interval": 0.05, "delay": 0.05}
    (reply,) = line.ask(json.dumps({"execute": "burst", "arguments": asked, "id": 7}).encode())
    assert reply["id"] == 7
    assert reply["return"]["offsets"] == [0.05, 0.1, 0.15, 0.2]
    assert reply["return"]["frames"] == 0
    wire.wait_for(GUEST_ADDRESS, count=4)
    assert agent.wait_for_log("burst", cause="hint")["reason"] == "bond0: eth1 -> eth2"
    assert agent.sent_by("hint") == 4


def test_a_numbered_burst_counts_once(hinted: tuple[Agent, Line]) -> None:
    agent, line = hinted
    asked = b'{"execute": "burst", "arguments": {"boot": "b", "sequence": %d}}'
    replies = line.ask(asked % 1, asked % 1, asked % 2, asked % 1)
    assert [reply["return"]["duplicate"] for reply in replies] == [False, True, False, True]
    assert agent.sent_by("hint") == 2


def test_info_names_what_is_announced(hinted: tuple[Agent, Line]) -> None:
    _, line = hinted
    (reply,) = line.ask(b'{"execute": "info"}')
    assert reply["return"]["links"] == [
        {"name": "eth0", "mac": GUEST_MAC, "addresses": [GUEST_ADDRESS]}
    ]
    assert reply["return"]["counters"] == {"sent": 1, "dropped": 0}


def test_garbage_is_answered_and_harms_nothing(hinted: tuple[Agent, Line]) -> None:
    agent, line = hinted
    garbage = [
        b"GET / HTTP/1.1\r",
        b"\x00\x01\x02\x03\x04\x11\x13\x1a\x1c\x7f",  # what a terminal line would take for its own
        b"\x80\xfe\xc3(",
        b"[" * 3000,
        b"{" * 5000,
        b'{"execute": "burst", "execute": "burst"}',
        b'{"execute": "status"}',
        b'{"execute": "quit"}',
        b'{"execute": "burst", "arguments": {"count": 1e999}}',
        b'{"execute": "burst", "arguments": {"command": "reboot"}}',
    ]
    for sent in garbage:
        (reply,) = line.ask(sent)
        assert set(reply) == {"error"}, sent
    assert line.ask(b"BURST")[0]["return"]["frames"] == 1
    status = agent.status()["hint_port"]
    assert (status["requests"], status["errors"]) == (1, len(garbage))


def test_a_delimiter_ends_whatever_was_begun(hinted: tuple[Agent, Line]) -> None:
    _, line = hinted
    os.write(line.descriptor, b'{"execute": "bur\xff{"execute": "sync", "id": 42}\n')
    assert line.reply() == {"return": {}, "id": 42}


def test_a_host_that_does_not_read_loses_replies_and_no_burst(
    hinted: tuple[Agent, Line], wire: Capture
) -> None:
    agent, line = hinted
    os.set_blocking(line.descriptor, False)
    for _ in range(100):
        with suppress(BlockingIOError):
            line.send(*[b'{"execute": "info"}'] * 50)

    def burst() -> int:
        with suppress(BlockingIOError):
            line.send(b"\xffBURST")
        return agent.sent_by("hint")

    until(burst, "a burst is heard though no reply is read")

    def drain() -> bytes:
        data = b""
        with suppress(BlockingIOError):
            while read := os.read(line.descriptor, 1 << 16):
                data += read
        agent.status()  # it has answered what it read before
        return data

    data = b"".join(iter(drain, b""))
    os.set_blocking(line.descriptor, True)
    line.send(b"\xffBURST")
    while not data.endswith(b"\n") or b'"frames"' not in data.splitlines()[-1]:
        data += line.line() + b"\n"
    *before, last = data.splitlines()
    assert json.loads(last)["return"]["frames"] <= 1
    # Where only a part fitted the next one still begins a line.
    assert max(each.count(b'{"return"') for each in before) == 1


@pytest.mark.parametrize("flood", [b"x" * 4000, b"\n" * 4000, b"\xff" * 4000, b"BURST\n" * 600])
def test_a_host_that_never_stops_is_not_all_that_is_heard(
    tiny_lab: TinyLab, tmp_path: Path, wire: Capture, flood: bytes
) -> None:
    with closing(SocketHost(tmp_path)) as host, start(tiny_lab, tmp_path, host, TICKING) as agent:
        line = host.connected()
        over = threading.Event()

        def pour() -> None:
            with suppress(OSError):
                while not over.is_set():
                    os.write(line.descriptor, flood)

        def drink() -> None:
            with suppress(OSError):
                while os.read(line.descriptor, 1 << 16):
                    pass

        threads = [threading.Thread(target=each) for each in (pour, drink)]
        for each in threads:
            each.start()
        try:
            before = agent.sent()
            until(lambda: agent.sent() >= before + 3, "it announces all the same")
            tiny_lab.ip("guest", "address add 192.0.2.50/24 dev eth0")
            wire.wait_for("192.0.2.50")
        finally:
            over.set()
            agent.stop()
            for each in threads:
                each.join(LIMIT)
        line.close()


def test_a_lease_stretches_the_interval(ticking: tuple[Agent, Line]) -> None:
    agent, line = ticking
    (reply,) = line.ask(b'{"execute": "lease", "arguments": {"seconds": 600}}')
    assert reply["return"]["interval"] == 60.0
    status = agent.status()
    assert status["interval"] == 60.0
    assert 0 < status["lease"] <= 600
    line.ask(b'{"execute": "lease", "arguments": {"seconds": 0}}')
    assert agent.status()["lease"] is None
    before = agent.sent_by("refresh")
    until(lambda: agent.sent_by("refresh") > before + 2, "it refreshes as before")
    line.close()


def test_a_lease_that_runs_out(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with closing(SocketHost(tmp_path)) as host, start(tiny_lab, tmp_path, host, TICKING) as agent:
        line = host.connected()
        line.ask(b'{"execute": "lease", "arguments": {"seconds": 0.3}}')
        assert agent.wait_for_log("lease-ended")["reason"] == "ran out"
        before = agent.sent_by("refresh")
        until(lambda: agent.sent_by("refresh") > before + 2, "it refreshes as before")
        line.close()


def test_a_host_that_hangs_up_and_comes_back(ticking: tuple[Agent, Line], host: Any) -> None:
    agent, line = ticking
    line.ask(b"BURST")
    assert agent.status()["hint_port"]["state"] == "open, host connected"
    os.write(line.descriptor, b'{"execute": "burst", "arguments": {"reason": "half')
    line.close()
    until(lambda: "open" not in agent.status()["hint_port"]["state"], "it notices")
    line = host.connected()
    # The half line of the one before is forgotten.
    assert line.ask(b"BURST")[0]["return"]["frames"] == 1
    assert agent.status()["hint_port"]["errors"] == 0
    line.close()


def test_no_promise_outlives_the_port(ticking: tuple[Agent, Line], host: Any) -> None:
    """It would be looked for once a minute only, and nothing be announced until then."""
    agent, line = ticking
    line.ask(b'{"execute": "lease", "arguments": {"seconds": 600}}')
    assert agent.status()["interval"] == 60.0
    line.close()
    until(lambda: agent.status()["lease"] is None, "the promise is void")
    assert agent.status()["interval"] == 0.2
    assert agent.log("lease-ended", reason="the hint port is closed")
    line = host.connected()
    assert line.ask(b"BURST")[0]["return"]["frames"] == 1
    line.close()


def test_a_port_that_is_there_later(tiny_lab: TinyLab, tmp_path: Path) -> None:
    path = tmp_path / "hint"
    with Agent(tiny_lab, tmp_path, "--hint-port", str(path), config=TICKING) as agent:
        assert agent.status()["hint_port"]["state"] == "absent"
        with closing(SocketHost(tmp_path)) as host:
            line = host.connected()
            assert line.ask(b"BURST")[0]["return"]["frames"] == 1
            line.close()


@pytest.mark.parametrize("kind", ["file", "directory", "/dev/zero", "/dev/full", "broken link"])
def test_a_port_that_is_none(tiny_lab: TinyLab, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hint"
    if kind.startswith("/dev/"):
        path.symlink_to(kind)
    elif kind == "broken link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("BURST\n")
    with Agent(tiny_lab, tmp_path, "--hint-port", str(path), config=TICKING) as agent:
        line = agent.wait_for_log("hint-port")
        assert line["state"] not in ("open", "off")
        until(lambda: agent.sent_by("refresh") >= 3, "it goes on")
        assert "open" not in agent.status()["hint_port"]["state"]
        assert not agent.has_open(path)


def test_a_reload_changes_the_port(tiny_lab: TinyLab, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with closing(SocketHost(one)) as first, closing(SocketHost(other)) as second:
        lines: list[Line] = []
        with Agent(tiny_lab, tmp_path) as agent:
            for host in (first, second, first):
                agent.config.write_text(
                    f"control_socket: {agent.control}\nhint_port: {host.path}\n{QUIET}"
                )
                agent.kill(signal.SIGHUP)
                line = host.connected()
                assert line.ask(b"BURST")[0]["return"]["frames"] == 1
                lines.append(line)
            agent.reload(QUIET)
            for line in lines:
                assert os.read(line.descriptor, 1) == b""  # hung up on
                line.close()


# -- from shells ----------------------------------------------------------------------------


@pytest.fixture
def socat() -> str:
    found = shutil.which("socat")
    if not found:
        pytest.skip("needs `socat` (Debian package socat)")
    return found


def test_socat_asks_over_the_control_socket(tiny_lab: TinyLab, tmp_path: Path, socat: str) -> None:
    requests = b'{"execute": "status", "id": 1}\n\xffBURST\nnonsense\n'
    with Agent(tiny_lab, tmp_path) as agent:
        done = subprocess.run(
            # It shuts down its half after the last line, and the agent the other then.
            [socat, "-t", str(LIMIT), "-", f"UNIX-CONNECT:{agent.control}"],
            input=requests,
            stdout=subprocess.PIPE,
            timeout=LIMIT,
            check=True,
        )
        status, burst, refused = map(json.loads, done.stdout.splitlines())
        assert agent.sent_by("operator") == 1
    assert (status["id"], status["return"]["pid"]) == (1, agent.pid)
    assert burst["return"]["frames"] == 1
    assert refused["error"]["class"] == "InvalidJSON"


def test_socat_listens_at_the_hint_port(tiny_lab: TinyLab, tmp_path: Path, socat: str) -> None:
    path = tmp_path / "hint"
    with (
        subprocess.Popen(
            [socat, "-", f"UNIX-LISTEN:{path}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as shell,
        closing(Line(os.dup(shell.stdout.fileno()))) as line,  # type: ignore[union-attr]
    ):
        until(path.exists, "it listens")
        with Agent(tiny_lab, tmp_path, "--hint-port", str(path)) as agent:
            assert shell.stdin
            for text in (b"BURST\n", b'{"execute": "info", "id": "a"}\n'):
                shell.stdin.write(text)
                shell.stdin.flush()
            burst, info = line.reply(), line.reply()
            assert agent.sent_by("hint") == 1
        # The agent has gone, and so has socat.
        assert shell.wait(LIMIT) == 0
    assert burst["return"]["frames"] == 1
    assert info["return"]["links"][0]["addresses"] == [GUEST_ADDRESS]
