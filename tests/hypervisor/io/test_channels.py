"""Channels found among this machine's own sockets, in the layouts of libvirt."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from garp_agent.hypervisor.io import channels
from garp_agent.hypervisor.io.channels import Finder
from tests.hypervisor.io.searching import (
    ELSEWHERE,
    PORT,
    ROOT,
    SERVE,
    found,
    listening,
    without_descriptors,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# -- by the name of the port ----------------------------------------------------------------


def test_listening_stream_sockets_with_the_name_of_the_port_are_channels(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    new, old = (
        short_path / "channel/3-web1" / PORT,
        short_path / "target/domain-4-two\nlines" / PORT,
    )
    oldest, xen = short_path / f"target/a.b.{PORT}", short_path / f"xen/c-{PORT}"
    nova = short_path / f"{PORT}.instance-0000002a.sock"
    other, prefix = short_path / "5-db" / "org.qemu.guest_agent.0", short_path / "6-db" / f"x{PORT}"
    packets = listening(short_path / "9-db" / PORT, kind=socket.SOCK_SEQPACKET)
    finder = new_finder(PORT)
    expected = [("a.b", oldest), ("c", xen), ("instance-0000002a", nova)]
    all_ = sorted([*expected, ("two\nlines", old), ("web1", new)])
    with packets, listening(oldest, other, prefix, xen, nova):
        with listening(new, old), socket.socket(socket.AF_UNIX) as client:
            assert found(finder) == [(guest, str(path)) for guest, path in all_]
            client.connect(str(new))
            assert len(found(finder)) == 5
        # The other paths still exist, and no process listens on them.
        assert found(finder) == [(guest, str(path)) for guest, path in expected]
    assert finder.refused == {}
    assert finder.trouble == ""


def test_abstract_names_with_line_breaks_are_neither_guests_nor_errors(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    """In /proc/net/unix the second one is a line of its own, for a socket that listens."""
    forged = f"x\n0: 2 0 10000 1 1 9 {short_path}/1-forged/{PORT}"
    with listening(short_path / "3-web1" / PORT) as [web1], contextlib.ExitStack() as stack:
        for name in ("a\nb c d e f g h /i", forged):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(b"\0" + name.encode())
            sock.listen(1)
        assert found(new_finder(PORT)) == [("web1", web1.getsockname())]


def test_name_that_libvirt_cut_is_looked_up_once_in_its_status_files(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    whole = "a-name-longer-than-twenty-characters"
    cut, unknown = short_path / f"7-{whole[:20]}" / PORT, short_path / f"8-{'b' * 20}" / PORT
    quoted, short = short_path / "9-it's <twenty> & more" / PORT, short_path / "6-short" / PORT
    escaped = str(quoted).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    status = short_path / "status"
    status.mkdir()
    os.mkfifo(status / "pipe.xml")  # reading it would wait without end
    writer = os.open(status / "pipe.xml", os.O_RDWR)
    for name, path in (
        (whole, str(cut)),
        ("other", f"{cut}-and-more"),
        ("it's <twenty> & more than that", escaped.replace("'", "&apos;")),
        ("another", str(short)),
    ):
        (status / f"{name}.xml").write_text(f"<channel><source mode='bind' path='{path}'/>")
    with listening(cut, unknown, quoted, short):
        finder = new_finder(PORT, status_directory=str(status))
        expected = [whole, "b" * 20, "it's <twenty> & more than that", "short"]
        assert [channel.guest for channel in finder.find()] == expected
        for file in status.iterdir():
            file.unlink()
        assert [channel.guest for channel in finder.find()] == expected
        nowhere = new_finder(PORT, status_directory=str(short_path / "none"))
        assert whole[:20] in [channel.guest for channel in nowhere.find()]
    os.close(writer)


# -- by patterns ----------------------------------------------------------------------------


def test_patterns_find_sockets_of_any_name(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    sockets = [short_path / "101.garp", short_path / "102.garp", short_path / "vm" / "db" / "hint"]
    with listening(*sockets):
        (short_path / "103.garp").write_text("no socket")
        patterns = [f"{short_path}/*.garp", f"{short_path}/vm/*/hint", f"{short_path}/none/*"]
        finder = new_finder(PORT, patterns)
        assert found(finder) == list(zip(("101", "102", "db"), map(str, sockets)))
        assert finder.refused == {}
        plain, second = str(sockets[0]), str(sockets[1])
        assert found(new_finder("", [plain])) == [(plain, plain)]
        assert found(new_finder("", [f"{short_path}/10[2-9].garp"])) == [(second, second)]


def test_socket_that_is_found_twice_is_listed_once(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    path, hard = short_path / "run" / "1-a" / PORT, short_path / "hard"
    os.symlink(short_path / "run", short_path / "var-run")
    with listening(path):
        os.link(path, hard)
        patterns = [f"{short_path}/var-run/1-*/{PORT}", f"{short_path}/run/1-*/*", f"{hard}*"]
        assert found(new_finder(PORT, patterns)) == [("a", str(path))]


def test_file_whose_device_the_kernel_and_stat_call_differently_is_found(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    """As on btrfs and overlayfs: stat(2) gives a device number that is not the superblock's."""
    script = """
set -e; cd "$1"; mkdir lower upper merged; mount -t tmpfs tmpfs upper; mkdir upper/dir upper/work
mount -t overlay overlay -o lowerdir=lower,upperdir=upper/dir,workdir=upper/work merged
exec "$2" -c "$3" "$1/merged/3-web1/$4"
"""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'agent')!r})\n{SERVE}" + (
        "from garp_agent.hypervisor.io.channels import Finder\n"
        "from garp_agent.hypervisor.io.trusted_folders import superblock_device\n"
        "path = sys.argv[1]; device = os.stat(path).st_dev\n"
        "print((os.major(device), os.minor(device)) == superblock_device(path))\n"
        "print(*(channel.guest for channel in Finder(os.path.basename(path)).find()))\n"
    )
    if os.geteuid() != 0:
        pytest.skip("needs root")
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "-",
        str(short_path),
        sys.executable,
        code,
        PORT,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["False", "web1"]


# -- what stays and what goes -----------------------------------------------------------------


def test_no_search_misses_a_guest_while_other_sockets_come_and_go(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    code = """
import socket
while True:
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for number, each in enumerate(sockets):
        each.bind(f"\\0garp-churn-{number}")
    for each in sockets:
        each.close()
"""
    guests = listening(*(short_path / f"{n}-guest{n}" / PORT for n in range(50)))
    with guests, subprocess.Popen([sys.executable, "-c", code]) as churn:
        try:
            finder = new_finder(PORT)
            assert [len(finder.find()) for _ in range(400)] == [50] * 400
        finally:
            churn.kill()


def test_search_without_descriptors_keeps_the_guests(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    with listening(short_path / "3-web1" / PORT, short_path / "101.garp"):
        finder = new_finder(PORT, [f"{short_path}/*.garp"])
        both = found(finder)
        assert [guest for guest, _ in both] == ["101", "web1"]
        with without_descriptors():
            assert found(finder) == both  # the kernel is asked through an open socket
            assert finder.trouble == ""
        finder.close()
        with without_descriptors():
            assert found(finder) == both  # the kernel cannot be asked any more
            assert finder.trouble == "the kernel does not list its sockets: Too many open files"
            os.unlink(short_path / "101.garp")
            assert found(finder) == both[1:]
            first = new_finder(PORT)
            assert found(first) == []
            assert first.trouble == finder.trouble
        assert found(finder) == both[1:]
        assert finder.trouble == ""


def test_guest_is_gone_when_its_path_leads_elsewhere(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    path, aside = short_path / "3-web1" / PORT, short_path / "aside"
    finder = new_finder(PORT)
    with listening(path):
        [before] = finder.find()
        path.rename(aside)
        assert finder.find() == []
        assert finder.refused == {str(path): ELSEWHERE}
        with listening(path):  # a guest that was started anew
            [after] = finder.find()
            assert (after.guest, after.path) == (before.guest, before.path)
            assert after.file != before.file
            assert finder.refused == {str(path): ELSEWHERE}  # the first one still listens
        path.unlink()
        aside.rename(path)
        assert finder.find() == [before]
        path.unlink()
        path.write_text("no socket")
        assert finder.find() == []


# -- without sock_diag ------------------------------------------------------------------------

WITHOUT = (
    "the kernel does not list its sockets: Protocol not supported (sock_diag); "
    "searched only the folders of libvirt"
)
# As in a kernel without it: socket(AF_NETLINK, ..., NETLINK_SOCK_DIAG) fails, seccomp(2).
FORBID = """
import ctypes, platform, struct
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
code = [(0x20, 0, 0, 0), (0x15, 0, 5, number), (0x20, 0, 0, 16), (0x15, 0, 3, 16)]
code += [(0x20, 0, 0, 32), (0x15, 0, 1, 4), (0x06, 0, 0, 0x50000 | 93), (0x06, 0, 0, 0x7FFF0000)]
program = b"".join(struct.pack("=HBBI", *each) for each in code)
buffer = ctypes.create_string_buffer(program)
header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, header, 0, 0) == 0
"""


@needs_root
def test_without_sock_diag_the_folders_of_libvirt_are_searched(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    paths = [
        each.replace("*", f"1-guest{n}").replace("PORT", PORT)
        for n, each in enumerate(channels.KNOWN_FOLDERS)
    ]
    script = 'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && exec "$@"'
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'agent')!r})\n" + (
        SERVE.replace("os.makedirs(os.path.dirname(path))", MAKE) + FORBID + REPORT
    )
    command = ["unshare", "-m", "sh", "-c", script, "-", sys.executable, "-c", code, *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    guests = ["1-guest2", "1-guest3", "1-guest4", "guest0", "guest1"]
    assert done.stdout.splitlines() == [
        "listening",
        " ".join(guests),
        WITHOUT,
    ]


@pytest.mark.parametrize("command", ["list", "send --all", "send --guest x"])
def test_command_without_sock_diag_says_so_and_has_failed(command: str) -> None:
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT / 'agent')!r})\n{FORBID}"
    code += "runpy.run_module('garp_agent.hypervisor', run_name='__main__')\n"
    arguments = [*command.split(), "--port", PORT]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"garp-hint: {WITHOUT}"
    assert done.stderr.count("\n") == 2


MAKE = "os.makedirs(os.path.dirname(path), exist_ok=True)"
REPORT = f"""
from garp_agent.hypervisor.io.channels import Finder
finder = Finder({PORT!r})
print(*(channel.guest for channel in finder.find()))
print(finder.trouble)
"""
