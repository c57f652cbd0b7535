"""The harness itself: archives, frames, and what becomes of a guest that hangs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm import images, initramfs
from tests.vm.inside import GuestError
from tests.vm.machine import Machine
from tests.vm.wire import Frame, Told


def test_an_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    entries = [
        initramfs.file("deep/below/file", b"content", executable=True),
        initramfs.link("a-link", "deep/below/file"),
        initramfs.folder("empty"),
    ]
    archive = initramfs.archive(entries)
    busybox = images.boot_archives()[0].parent / "unpacked" / "bin" / "busybox"
    subprocess.run([busybox, "cpio", "-i"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "a-link").read_bytes() == b"content"
    assert os.access(tmp_path / "deep/below/file", os.X_OK)
    assert (tmp_path / "empty").is_dir()


def test_modules_come_after_what_they_need() -> None:
    order = images.kernel().in_order(["8021q", "vxlan"])
    assert order.index("garp") < order.index("8021q")
    assert order.index("udp_tunnel") < order.index("vxlan")
    assert len(order) == len(set(order))


# Captured from Linux 6.1: a gratuitous ARP of a VLAN's address, and an unsolicited NA.
GRATUITOUS_ARP = bytes.fromhex(
    "ffffffffffff 525400000001 8100 000a 0806"
    "0001 0800 06 04 0001 525400000001 c0000201 000000000000 c0000201"
)
UNSOLICITED_NA = bytes.fromhex(
    "333300000001 525400000001 86dd"
    "60000000 0020 3a ff fe80000000000000505400fffe000001 ff020000000000000000000000000001"
    "88 00 689e 20000000 fe80000000000000505400fffe000001 02 01 525400000001"
)


def test_frames_are_told_apart() -> None:
    assert Frame(0.0, GRATUITOUS_ARP).told == Told(
        "arp-request", "52:54:00:00:00:01", "192.0.2.1", (10,)
    )
    assert not Frame(0.0, GRATUITOUS_ARP).padded
    assert Frame(0.0, UNSOLICITED_NA).told == Told(
        "unsolicited-na", "52:54:00:00:00:01", "fe80::5054:ff:fe00:1"
    )
    assert Frame(0.0, bytes(60)).told is None
    with pytest.raises(AssertionError, match="checksum"):
        _ = Frame(0.0, UNSOLICITED_NA[:-1] + b"\x02").told


def test_a_guest_that_hangs_is_reported_with_its_console(
    boot: Callable[..., Machine],
) -> None:
    guest = boot().ready()
    with pytest.raises(GuestError, match=r"(?s)sleep.*after 1 s"):
        guest.run("sleep", "60", patience=1)
    guest.qmp("stop")
    with pytest.raises(GuestError, match=r"(?s)not within.*console of guest.*control: ready"):
        guest.python("result = 1", patience=1)
    process, folder = guest._process, guest.folder
    guest.stop()
    assert process.returncode is not None
    assert not folder.exists()
