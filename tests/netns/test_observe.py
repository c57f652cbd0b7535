"""``garp-agent watch`` beside a running agent: terminal, pipe, capture file."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, PEER_MAC
from tests import golden
from tests.netns.agent import (
    COMMAND,
    ENVIRONMENT,
    LIMIT,
    QUIET,
    WITHOUT_CHECK,
    Agent,
    Site,
    command,
    gratuitous,
    until,
)

FORGED = bytes(gratuitous(PEER_MAC))


@pytest.fixture
def agent(site6: Site) -> Iterator[Agent]:
    # A conflict must not change what it announces.
    with site6.start_without_refresh(config=QUIET + WITHOUT_CHECK) as started:
        yield started


class Watch:
    """A running ``garp-agent watch`` and its output so far."""

    def __init__(self, site: Site, *options: str, terminal: bool = False, **env: str) -> None:
        self._send = site.wire.socket.send
        ours, theirs = os.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.process = site.lab.start(
            "guest",
            [*COMMAND, "watch", *options],
            env={**ENVIRONMENT, "TZ": "UTC", "TERM": "xterm", **env},
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        self._output = ours
        self.text = ""

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._output)

    def wait_for(self, pattern: str) -> str:
        """Return the output, once it matches ``pattern``."""
        end = time.monotonic() + LIMIT
        while not re.search(pattern, self.text, re.MULTILINE):
            assert select.select([self._output], [], [], max(0, end - time.monotonic()))[0], (
                f"{pattern} never came: {self.text}"
            )
            more = os.read(self._output, 1 << 16).decode()
            assert more, f"it ended: {self.text}"
            self.text += more.replace("\r", "")
        return self.text

    def until_it_sees(self) -> None:
        """Send until something is printed, before which nothing shows that it listens."""
        ours = [self._output]
        until(lambda: self._send(FORGED) and select.select(ours, [], [], 0.1)[0], "it sees")

    def until_it_ends(self, *frames: bytes) -> None:
        """Send these again and again until it has ended."""
        until(lambda: all(map(self._send, frames)) and self.process.poll() is not None, "it ends")

    def end(self) -> tuple[int, str]:
        """Interrupt it; return its exit status and standard error."""
        os.killpg(self.process.pid, signal.SIGINT)
        _, said = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_shows_own_and_foreign_announcements(site6: Site, agent: Agent) -> None:
    with Watch(site6, "--json", "eth0") as watch:
        watch.until_it_sees()
        for name in ("dad-solicitation", "arp-reply-tagged"):  # which are not shown
            site6.wire.socket.send(golden.read(f"frames/{name}"))
        agent.burst()
        told = rows(watch.wait_for("unsolicited-na.*\n"))
        assert watch.end()[0] == 0
    assert {each["address"] for each in told} == {GUEST_ADDRESS, GUEST_ADDRESS6}
    ours = [each for each in told if each["own"]]
    assert [(each["kind"], each["address"]) for each in ours] == [
        ("arp-request", GUEST_ADDRESS),
        ("unsolicited-na", GUEST_ADDRESS6),
    ]
    assert {each["hardware_address"] for each in ours} == {GUEST_MAC}
    assert ours[0]["irregular"][0].startswith(f"conflict: {PEER_MAC} announced it too")
    assert (told[0]["hardware_address"], told[0]["own"]) == (PEER_MAC, False)


def test_terminal_of_80_columns_shows_rows_and_red_marks(site6: Site, agent: Agent) -> None:
    with Watch(site6, "eth0", terminal=True) as watch:
        watch.wait_for(r"^TIME .* ADDRESS$")
        site6.wire.socket.send(golden.read("frames/rarp"))
        agent.burst()
        site6.wire.socket.send(FORGED)
        text = watch.wait_for("conflict.*\n")
        ended = watch.end()
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 80
    assert f"\x1b[31m    ! conflict: {GUEST_MAC} announced it too" in text
    assert re.search(rf" request {GUEST_MAC}      - own     {GUEST_ADDRESS}$", text, re.MULTILINE)
    assert re.search(r" rarp    02:00:00:00:00:0a      - foreign -$", text, re.MULTILINE)
    assert ended == (0, "garp-agent watch: 4 announcements, 2 own, 2 foreign, 1 irregular\n")


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_dumb_terminal_get_no_escapes(site6: Site, setting: dict[str, str]) -> None:
    with Watch(site6, "eth0", terminal=True, **setting) as watch:
        watch.wait_for(r"^TIME .* ADDRESS$")
        site6.wire.socket.send(FORGED[:20] + b"\0\3" + FORGED[22:])
        assert "\x1b" not in watch.wait_for("! RARP opcode 3 .*\n")
        watch.end()


@pytest.mark.parametrize(
    ("tags", "vlan"), [("81000064", "100"), ("88a800c881000064", "200.100"), ("81006000", None)]
)
@pytest.mark.parametrize("name", ["arp-announcement", "arp-probe", "unsolicited-na", "rarp"])
def test_tagged_announcement_has_its_vlan(site6: Site, tags: str, vlan: str, name: str) -> None:
    frame = golden.read(f"frames/{name}")
    with Watch(site6, "--json", "--count", "1", "eth0") as watch:
        watch.until_it_ends(frame[:12] + bytes.fromhex(tags) + frame[12:])
        (row,) = rows(watch.wait_for("\n"))
    assert row["vlan"] == vlan
    assert row["irregular"] == []


def test_capture_file_is_written_read_back_and_not_overwritten(site6: Site, agent: Agent) -> None:
    file = site6.directory / "seen.pcap"
    with Watch(site6, "-w", str(file), terminal=True) as watch:
        watch.wait_for("ADDRESS")
        agent.burst()
        watch.wait_for(f"{GUEST_ADDRESS6}\n")
        watch.end()
    done = command(site6.lab, "watch", "-r", str(file), "--json")
    told = rows(done.stdout)
    assert [(each["kind"], each["own"]) for each in told] == [
        ("arp-request", True),
        ("unsolicited-na", True),
    ]
    # Writing to the file that is read is refused, under any name.
    other_name = site6.directory / "other.pcap"
    other_name.symlink_to(file)
    for name in (file, other_name):
        done = command(site6.lab, "watch", "-r", str(file), "-w", str(name))
        assert done.returncode == 1
        assert f"{name}: is the file that --read reads: write another file" in done.stderr
    # tcpdump reads the same from the file.
    other = ["tcpdump", "-nr", str(file)]
    text = subprocess.run(other, capture_output=True, text=True, check=True).stdout
    assert text.count(f"who-has {GUEST_ADDRESS}") == 1
    assert text.count(f"tgt is {GUEST_ADDRESS6}") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nope",), 1, "nope: no such interface; there are: lo, eth0"),
        (("-r", "/no/such/file"), 1, "/no/such/file: No such file or directory"),
        (("-r", "/etc/hostname"), 1, "/etc/hostname: not a capture file"),
        (("-w", "/no/such/file", "eth0"), 1, "/no/such/file: No such file or directory"),
        (("--count", "1", "--seconds", "0.1", "eth0"), 1, "0 announcements"),
        (("--seconds", "0.1", "eth0"), 0, "0 announcements"),
        (("--count", "0"), 2, "--count"),
        (("-r", "file", "eth0"), 2, "a capture file has no interfaces"),
        (("eth0",), 77, "no permission to listen"),
    ],
)
def test_end_of_watch_has_its_message_and_status(
    site: Site, arguments: tuple[str, ...], status: int, said: str
) -> None:
    prefix = ("setpriv", "--bounding-set", "-net_raw") if status == 77 else ()
    done = command(site.lab, "watch", *arguments, prefix=prefix)
    assert said in done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_reader_that_closes_the_pipe_ends_it_quietly(site6: Site) -> None:
    with Watch(site6, "--json", "eth0") as watch:
        watch.until_it_sees()
        read_end, watch._output = watch._output, os.open(os.devnull, os.O_RDONLY)
        os.close(read_end)
        watch.until_it_ends(FORGED)
    assert watch.process.stderr
    assert (watch.process.returncode, watch.process.stderr.read()) == (0, "")
