"""Channels found among this machine's own sockets, in the layouts of libvirt."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.io.channels import Finder, guest_of, matching, queued_paths

PORT = f"org.garp_agent.test{os.getpid()}"  # no other test's


@contextlib.contextmanager
def listening(*paths: Path, kind: int = socket.SOCK_STREAM) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        listeners = []
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
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
def test_guest_of_a_path_is_its_name(path: str, guest: str) -> None:
    assert guest_of(path) == guest


def test_listening_stream_sockets_with_the_name_of_the_port_are_channels(short_path: Path) -> None:
    new, old = short_path / "channel/3-web1" / PORT, short_path / "target/domain-4-two words" / PORT
    oldest = short_path / f"target/a.b.{PORT}"
    other, prefix = short_path / "5-db" / "org.qemu.guest_agent.0", short_path / "6-db" / f"x{PORT}"
    packets = listening(short_path / "9-db" / PORT, kind=socket.SOCK_SEQPACKET)
    finder = Finder(PORT)
    expected = [("a.b", str(oldest)), ("two words", str(old)), ("web1", str(new))]
    with packets, listening(oldest, other, prefix):
        with listening(new, old), socket.socket(socket.AF_UNIX) as client:
            assert finder.find() == expected
            client.connect(str(new))
            assert finder.find() == expected
        assert finder.find() == expected[:1]  # the other paths still exist


def test_name_that_libvirt_cut_is_looked_up_once_in_its_status_files(short_path: Path) -> None:
    whole = "a-name-longer-than-twenty-characters"
    cut, unknown = short_path / f"7-{whole[:20]}" / PORT, short_path / f"8-{'b' * 20}" / PORT
    quoted, short = short_path / "9-it's <twenty> & more" / PORT, short_path / "6-short" / PORT
    escaped = str(quoted).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    status = short_path / "status"
    status.mkdir()
    for name, path in (
        (whole, str(cut)),
        ("other", f"{cut}-and-more"),
        ("it's <twenty> & more than that", escaped.replace("'", "&apos;")),
        ("another", str(short)),
    ):
        (status / f"{name}.xml").write_text(f"<channel><source mode='bind' path='{path}'/>")
    with listening(cut, unknown, quoted, short):
        finder = Finder(PORT, status_directory=str(status))
        expected = [whole, "b" * 20, "it's <twenty> & more than that", "short"]
        assert [channel.guest for channel in finder.find()] == expected
        for file in status.iterdir():
            file.unlink()
        assert [channel.guest for channel in finder.find()] == expected
        nowhere = Finder(PORT, status_directory=str(short_path / "none"))
        assert whole[:20] in [channel.guest for channel in nowhere.find()]


def test_patterns_find_sockets_of_any_name(short_path: Path) -> None:
    sockets = [short_path / "101.garp", short_path / "102.garp", short_path / "vm" / "db" / "hint"]
    with listening(*sockets):
        (short_path / "103.garp").write_text("no socket")
        patterns = [f"{short_path}/*.garp", f"{short_path}/vm/*/hint", f"{short_path}/none/*"]
        expected = list(zip(("101", "102", "db"), map(str, sockets)))
        assert Finder(PORT, patterns).find() == expected
        plain = str(sockets[0])
        assert list(matching([plain])) == [Channel(plain, plain)]
        [odd] = matching([f"{short_path}/10[2-9].garp"])
        assert odd == Channel(str(sockets[1]), str(sockets[1]))


def test_channel_that_is_found_twice_is_listed_once(short_path: Path) -> None:
    path = short_path / "run" / "1-a" / PORT
    os.symlink(short_path / "run", short_path / "var-run")
    with listening(path):
        patterns = [f"{short_path}/var-run/1-*/{PORT}", f"{short_path}/run/1-*/*"]
        assert Finder(PORT, patterns).find() == [Channel("a", str(path))]


def test_socket_with_a_client_in_its_backlog_is_queued(short_path: Path) -> None:
    path = short_path / "socket"
    with listening(path) as [listener], socket.socket(socket.AF_UNIX) as client:
        assert str(path) not in queued_paths()
        client.connect(str(path))
        assert str(path) in queued_paths()
        with listener.accept()[0]:
            assert str(path) not in queued_paths()
