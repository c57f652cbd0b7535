"""Channels found among this machine's own sockets, laid out as libvirt lays them out."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.hypervisor.io.channels import Channel, Finder, guest_of, matching, queued_paths

PORT = f"org.garp_agent.test{os.getpid()}"  # no other test's


@contextlib.contextmanager
def listening(*paths: Path) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        listeners = []
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen(1)
            listeners.append(listener)
        yield listeners


@pytest.mark.parametrize(
    ("path", "guest"),
    [
        ("/run/libvirt/qemu/channel/3-web1/org.garp_agent.0", "web1"),
        ("/run/libvirt/qemu/channel/12-a-b-3/org.garp_agent.0", "a-b-3"),
        ("/var/lib/libvirt/qemu/channel/target/domain-3-web1/org.garp_agent.0", "web1"),
        ("/var/lib/libvirt/qemu/channel/target/domain-3-domain-3/org.garp_agent.0", "domain-3"),
        ("/var/lib/libvirt/qemu/channel/target/domain-web1/org.garp_agent.0", "web1"),
        ("/var/lib/libvirt/qemu/channel/target/web1.org.garp_agent.0", "web1"),
        ("/srv/vms/web1/org.garp_agent.0", "web1"),
        ("/srv/vms/web-1/org.garp_agent.0", "web-1"),
        ("/srv/vms/3-/org.garp_agent.0", "3-"),
        ("/org.garp_agent.0", "/org.garp_agent.0"),
    ],
)
def test_the_guest_is_in_the_path(path: str, guest: str) -> None:
    assert guest_of(path) == guest


def test_listening_sockets_called_like_the_port_are_channels(short_path: Path) -> None:
    new, old = short_path / "channel/3-web1" / PORT, short_path / "target/domain-4-two words" / PORT
    oldest = short_path / f"target/a.b.{PORT}"
    seqpacket = short_path / "9-db" / PORT
    seqpacket.parent.mkdir()
    other, prefix = short_path / "5-db" / "org.qemu.guest_agent.0", short_path / "6-db" / f"x{PORT}"
    finder = Finder(PORT)
    with (
        listening(new, old, oldest, other, prefix),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
    ):
        packets.bind(str(seqpacket))
        packets.listen(1)
        expected = [
            Channel("a.b", str(oldest)),
            Channel("two words", str(old)),
            Channel("web1", str(new)),
        ]
        assert finder.find() == expected
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(new))
            assert finder.find() == expected
    assert finder.find() == []  # the paths are still there, nobody listens


def test_guests_start_and_stop(short_path: Path) -> None:
    finder = Finder(PORT)
    with listening(short_path / "1-a" / PORT):
        assert [channel.guest for channel in finder.find()] == ["a"]
        with listening(short_path / "2-b" / PORT):
            assert [channel.guest for channel in finder.find()] == ["a", "b"]
        assert [channel.guest for channel in finder.find()] == ["a"]


def test_a_name_that_libvirt_cut_is_looked_up_in_its_status(short_path: Path) -> None:
    whole = "a-name-longer-than-twenty-characters"
    cut, unknown = short_path / f"7-{whole[:20]}" / PORT, short_path / f"8-{'b' * 20}" / PORT
    quoted = short_path / "9-it's <twenty> & more" / PORT
    status = short_path / "status"
    status.mkdir()
    escaped = str(quoted).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace("'", "&apos;")
    (status / f"{whole}.xml").write_text(f"<channel><source mode='bind' path='{cut}'/>")
    (status / "other.xml").write_text(f"<source mode='bind' path='{cut}-and-more'/>")
    (status / "it's <twenty> & more than that.xml").write_text(f"<source path='{escaped}'/>")
    short = short_path / "6-short" / PORT
    (status / "another.xml").write_text(f"<source mode='bind' path='{short}'/>")
    with listening(cut, unknown, quoted, short):
        finder = Finder(PORT, status_directory=str(status))
        expected = [whole, "b" * 20, "it's <twenty> & more than that", "short"]
        assert [channel.guest for channel in finder.find()] == expected
        for file in status.iterdir():
            file.unlink()
        assert [channel.guest for channel in finder.find()] == expected  # asked once
        nowhere = Finder(PORT, status_directory=str(short_path / "none"))
        assert whole[:20] in [channel.guest for channel in nowhere.find()]


def test_patterns_find_sockets_of_any_name(short_path: Path) -> None:
    sockets = [short_path / "101.garp", short_path / "102.garp", short_path / "vm" / "db" / "hint"]
    with listening(*sockets):
        (short_path / "103.garp").write_text("no socket")
        patterns = [f"{short_path}/*.garp", f"{short_path}/vm/*/hint", f"{short_path}/none/*"]
        assert Finder(PORT, patterns).find() == [
            Channel("101", str(sockets[0])),
            Channel("102", str(sockets[1])),
            Channel("db", str(sockets[2])),
        ]
        plain = str(sockets[0])
        assert list(matching([plain])) == [Channel(plain, plain)]
        [odd] = matching([f"{short_path}/10[2-9].garp"])
        assert odd == Channel(str(sockets[1]), str(sockets[1]))


def test_one_channel_found_twice_is_one(short_path: Path) -> None:
    path = short_path / "run" / "1-a" / PORT
    os.symlink(short_path / "run", short_path / "var-run")
    with listening(path):
        patterns = [f"{short_path}/var-run/1-*/{PORT}", f"{short_path}/run/1-*/*"]
        assert Finder(PORT, patterns).find() == [Channel("a", str(path))]


def test_who_waits_in_a_backlog(short_path: Path) -> None:
    path = short_path / "socket"
    with listening(path) as [listener], socket.socket(socket.AF_UNIX) as client:
        assert str(path) not in queued_paths()
        client.connect(str(path))
        assert str(path) in queued_paths()
        with listener.accept()[0]:
            assert str(path) not in queued_paths()
