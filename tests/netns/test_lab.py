"""The lab has the fault that the project is about, is silent by itself, and goes away."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab
from bench.lab import GUEST_ADDRESS, GUEST_MAC, PEER_ADDRESS, PEER_MAC, FailoverLab, TinyLab

ROOT = Path(__file__).resolve().parents[2]
# Only a broken lab ever waits that long.
LIMIT = 20.0


class Line:
    """Numbered probes from the external host; they arrive in order or not at all."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.sender, self.receiver = sender, receiver
        receiver.settimeout(LIMIT)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.sender.send(b"%d" % number)

    def next_arrival(self) -> int:
        return int(self.receiver.recv(64))


@pytest.fixture
def line(failover_lab: FailoverLab) -> Iterator[Line]:
    sender, receiver = failover_lab.probe_sockets()
    with sender, receiver:
        yield Line(sender, receiver)


def announce(where: lab.Lab, arping: str) -> None:
    where.run("guest", [arping, "-q", "-U", "-c1", "-w1", "-I", "eth0", GUEST_ADDRESS], check=False)


def test_the_guest_is_reachable_at_first(failover_lab: FailoverLab, line: Line) -> None:
    line.send(1)
    assert line.next_arrival() == 1
    assert failover_lab.believed_port() == failover_lab.true_port()


def test_after_a_failover_nothing_arrives_until_the_guest_sends_one_frame(
    failover_lab: FailoverLab, line: Line, arping: str
) -> None:
    line.send(1)
    assert line.next_arrival() == 1
    failover_lab.fail_over()
    line.send(*range(2, 50))
    stale = failover_lab.believed_port()
    assert stale is not None
    assert stale != failover_lab.true_port()

    announce(failover_lab, arping)
    assert failover_lab.believed_port() == failover_lab.true_port()
    line.send(50)
    assert line.next_arrival() == 50


def test_the_fault_comes_back_with_every_failover(failover_lab: FailoverLab, line: Line) -> None:
    for turn in range(4):
        failover_lab.fail_over()
        line.send(2 * turn)
        assert failover_lab.believed_port() not in (None, failover_lab.true_port())
        failover_lab.speak()
        line.send(2 * turn + 1)
        assert line.next_arrival() == 2 * turn + 1
        failover_lab.restore()


def test_restoring_the_uplink_moves_nothing(failover_lab: FailoverLab, line: Line) -> None:
    failover_lab.fail_over()
    failover_lab.restore()
    line.send(1)
    failover_lab.speak()
    line.send(2)
    assert line.next_arrival() == 2


def test_a_second_failover_needs_the_uplink_back(failover_lab: FailoverLab) -> None:
    failover_lab.fail_over()
    with pytest.raises(lab.LabError, match="uplink-a is still cut: restore it first"):
        failover_lab.fail_over()


def test_the_guest_is_silent_through_a_failover(failover_lab: FailoverLab, line: Line) -> None:
    before = failover_lab.sent_frames("guest", "eth0")
    line.send(1)
    assert line.next_arrival() == 1
    failover_lab.fail_over()
    line.send(*range(2, 50))
    failover_lab.restore()
    assert failover_lab.sent_frames("guest", "eth0") == before
    failover_lab.speak()
    assert failover_lab.sent_frames("guest", "eth0") == before + 1


def test_no_neighbour_entry_will_ever_be_asked_for(failover_lab: FailoverLab) -> None:
    for role, other in (("external", GUEST_ADDRESS), ("guest", PEER_ADDRESS)):
        assert failover_lab.neighbours(role)[other].states == ("PERMANENT",)


def test_the_prober_measures_the_outage(failover_lab: FailoverLab) -> None:
    with failover_lab.prober(interval=0.001) as prober:
        prober.wait_until_reachable(LIMIT)
        cut = failover_lab.fail_over()
        assert prober.outage(cut, 0.2) is None
        failover_lab.speak()
        outage = prober.outage(cut, LIMIT)
        assert outage is not None
        # It began with the cut and lasted at least as long as the look at it above.
        assert outage >= 0.2 - (cut.done - cut.began)

        failover_lab.restore()
        assert prober.outage(lab.Cut(cut.done + outage, cut.done + outage), LIMIT) == 0.0


def test_the_prober_that_has_ended_is_an_error(failover_lab: FailoverLab) -> None:
    prober = failover_lab.prober()
    prober.close()
    with pytest.raises(lab.LabError, match="the prober has ended"):
        prober.wait_until_reachable()


def send_datagram(where: TinyLab, family: int, address: str) -> None:
    """From the peer to the guest."""
    with where.open_socket("guest", family, socket.SOCK_DGRAM) as guest:
        guest.settimeout(LIMIT)
        guest.bind((address, 1234))
        with where.open_socket("peer", family, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"hello", (address, 1234))
        assert guest.recv(64) == b"hello"


def test_a_peer_without_an_entry_asks_and_learns(tiny_lab: TinyLab) -> None:
    assert tiny_lab.neighbours("peer") == {}
    send_datagram(tiny_lab, socket.AF_INET, GUEST_ADDRESS)
    assert tiny_lab.neighbours("peer")[GUEST_ADDRESS].mac == GUEST_MAC
    assert tiny_lab.neighbours("guest")[PEER_ADDRESS].mac == PEER_MAC


def test_a_bridge_between_learns_from_an_announcement(bridged_lab: TinyLab, arping: str) -> None:
    assert bridged_lab.fdb("switch") == {}
    announce(bridged_lab, arping)
    assert bridged_lab.fdb("switch") == {GUEST_MAC: "guest"}


def test_with_ipv6_both_ends_have_an_address_at_once(tiny_lab6: TinyLab) -> None:
    send_datagram(tiny_lab6, socket.AF_INET6, lab.GUEST_ADDRESS6)
    assert tiny_lab6.neighbours("peer")[lab.GUEST_ADDRESS6].mac == GUEST_MAC


def test_a_packet_socket_sees_the_frames_of_its_link(tiny_lab: TinyLab, arping: str) -> None:
    with tiny_lab.packet_socket("peer", "eth0", 0x0806) as seen:
        seen.settimeout(LIMIT)
        announce(tiny_lab, arping)
        frame = seen.recv(2048)
    assert frame[:12].hex() == "f" * 12 + GUEST_MAC.replace(":", "")
    assert frame[28:32] == socket.inet_aton(GUEST_ADDRESS)


def test_the_process_is_back_in_its_own_namespace(tiny_lab: TinyLab) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    with tiny_lab.entered("guest"):
        assert os.readlink("/proc/thread-self/ns/net") != home
    with pytest.raises(ZeroDivisionError), tiny_lab.entered("guest"):
        _ = 1 / 0
    assert os.readlink("/proc/thread-self/ns/net") == home


def links() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def test_nothing_appears_in_the_machines_own_namespace(labs: None) -> None:
    before = links()
    with FailoverLab():
        assert links() == before
    assert links() == before


def test_two_labs_side_by_side_share_nothing(labs: None) -> None:
    with TinyLab() as one, TinyLab() as other:
        assert not set(one.namespaces()) & set(other.namespaces())
        one.close()
        assert one.namespaces() == []
        assert len(other.namespaces()) == 2


def test_the_end_of_the_block_removes_links_and_processes(labs: None) -> None:
    with TinyLab() as made:
        # The shell's child has left the shell's process group when it says its number.
        stray = ["sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait"]
        process = made.start("guest", stray, stdout=subprocess.PIPE)
        assert process.stdout
        descriptor = os.pidfd_open(int(process.stdout.readline()))
        prefix = made.prefix
    assert process.returncode == -signal.SIGKILL
    assert select.select([descriptor], [], [], LIMIT)[0], "the stray child is alive"
    os.close(descriptor)
    assert [name for name in os.listdir(lab.NAMESPACES) if name.startswith(prefix)] == []


class Unfinished(TinyLab):
    """Fails when its namespaces and links are there."""

    def build(self) -> None:
        super().build()
        Unfinished.made = self.namespaces()
        self.ip("guest", "link set nonsense up")

    made: list[str]


def test_a_construction_that_fails_leaves_nothing(labs: None) -> None:
    before = lab.namespaces_of(os.getpid())
    with pytest.raises(lab.LabError, match="nonsense"):
        Unfinished()
    assert len(Unfinished.made) == 2
    assert lab.namespaces_of(os.getpid()) == before


def test_namespaces_with_a_living_maker_are_no_leftovers(tiny_lab: TinyLab) -> None:
    assert not set(tiny_lab.namespaces()) & set(lab.leftovers())


MAKER = """
import sys, time
from bench.lab import FailoverLab
lab = FailoverLab()
sleeper = lab.start("guest", ["sleep", "1000"])
with lab.prober():
    print(sleeper.pid, flush=True)
    {then}
"""


@contextlib.contextmanager
def maker(then: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has made a lab and then does something, and a watch on the lab's process."""
    # We may have been started by nohup.
    command = ["env", "--default-signal=HUP", sys.executable, "-c", MAKER.format(then=then)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            watch = os.pidfd_open(int(process.stdout.readline()))
            assert len(lab.namespaces_of(process.pid)) == 6
            yield process, watch
            assert select.select([watch], [], [], LIMIT)[0], "the lab's process is alive"
            os.close(watch)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_maker_and_its_lab(labs: None, number: signal.Signals) -> None:
    with maker("time.sleep(1000)") as (process, _):
        process.send_signal(number)
        process.wait(LIMIT)
        assert process.returncode == -number
        assert lab.namespaces_of(process.pid) == []


@pytest.mark.parametrize("then", ["sys.exit(0)", "raise ValueError", "pass"])
def test_however_the_maker_ends_its_lab_is_gone(labs: None, then: str) -> None:
    with maker(then) as (process, _):
        process.wait(LIMIT)
        assert lab.namespaces_of(process.pid) == []
