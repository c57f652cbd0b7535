"""Learning frames on real bonds: who gets one, with which tags, and that nothing else changes.

The machine and its guests: `tests.vm.learning_host`.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.vm.agent import Agent
from tests.vm.frames import Announcement
from tests.vm.learning_host import (
    BEHIND_BOND0,
    BEHIND_BOND1,
    CARDS,
    HOST,
    HOST_ADDRESS,
    MACVTAP,
    MACVTAP_MAC,
    OWN,
    LearningWatcher,
    clear,
    configure,
    forget,
    full_queue,
    hear,
    learn,
    learning_frames,
    left_out,
    received_by_guests,
    sent_by,
    tables,
    use,
)
from tests.vm.qemu import QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT

MANY_PORTS, MANY = 16, 63  # further ports, and MACs behind each
VRRP = "00:00:5e:00:01:07"


@pytest.fixture(scope="module")
def machine() -> Iterator[QemuMachine]:
    with QemuMachine("hypervisor", cards=CARDS, hint_port=False, memory=320) as booted:
        configure(booted)
        yield booted


@pytest.fixture
def heard(machine: QemuMachine) -> QemuMachine:
    """All guests have just sent, except those of vnet1 and mt0; the bonds use eth0 and eth2."""
    hear(machine)
    return machine


def test_learn_sends_each_frame_once_on_the_active_ports_and_changes_nothing_else(
    heard: QemuMachine,
) -> None:
    use(heard, "bond0", "eth1")
    before = tables(heard), received_by_guests(heard)
    clear(heard)
    values = learn(heard)
    wanted = len(BEHIND_BOND0) - 1 + len(BEHIND_BOND1)  # not the macvtap's
    assert values["sent"] == {"0": wanted}
    wait_for(lambda: learning_frames(heard, "b").total() >= len(BEHIND_BOND0) - 1, "the frames")
    wait_for(lambda: learning_frames(heard, "c").total() >= len(BEHIND_BOND1), "the frames")
    expected = Counter(BEHIND_BOND0) - Counter([MACVTAP])
    assert learning_frames(heard, "b") == expected
    assert learning_frames(heard, "c") == Counter(BEHIND_BOND1)
    assert learning_frames(heard, "a") + learning_frames(heard, "d") == Counter()
    assert {
        ("pi", "52:54:00:00:00:0c", "no-path"),  # isolated, as its uplink is
        ("pt", "52:54:00:00:00:0b", "no-path"),  # VLAN 400, which the uplink lacks
        ("pl", "", "locked"),
        ("mt0", MACVTAP_MAC, "never-sent"),
        ("vnet1", "", "never-sent"),
    } <= left_out(values)
    assert (tables(heard), received_by_guests(heard)) == before
    double = [frame for frame in heard.cables["b"].frames if frame[12:14] == b"\x88\xa8"]
    assert {frame[16:18] for frame in double} == {b"\x81\x00"}
    assert all(len(frame) == 68 for frame in double)


def test_bridge_with_another_vlan_protocol_writes_its_own_tags(heard: QemuMachine) -> None:
    heard.ip("link set br1 type bridge vlan_protocol 802.1ad")
    try:
        heard.python("send('ga', frame('52:54:00:00:00:0a'))")
        clear(heard)
        learn(heard, "--bond", "bond1", "--learn-vlans", "100")
        wait_for(lambda: learning_frames(heard, "c"), "the frame")
        kinds = b"\x88\xa8", b"\x80\x35"  # the guest's own frame leaves there, too
        frames = heard.cables["c"].frames
        [frame] = [each for each in frames if (each[12:14], each[16:18]) == kinds]
        assert (frame[6:12].hex(":"), frame[14:18].hex()) == ("52:54:00:00:00:0a", "00648035")
    finally:
        heard.ip("link set br1 type bridge vlan_protocol 802.1q")


def test_guest_that_left_and_flood_and_macvtap(heard: QemuMachine) -> None:
    heard.python("send('mt0', frame(mac))", mac=MACVTAP_MAC)
    moved = "ffffffffffff 525400000001 8035".replace(" ", "")
    heard.cables["a"].send(bytes.fromhex(moved).ljust(60, b"\0"))
    wait_for(
        lambda: "52:54:00:00:00:01 dev bond0 master br0" in heard.check("bridge", "fdb"),
        "the entry moves",
    )
    flood = "send('h0', *(frame(f'52:54:01:00:{n >> 8:02x}:{n & 255:02x}') for n in range(3000)))"
    heard.python(flood)
    values = learn(heard, "--bond", "bond0")
    macs = [each["mac"] for each in values["frames"]]
    assert MACVTAP_MAC in macs
    assert OWN in macs
    assert "52:54:00:00:00:01" not in macs  # no memory: it is only known outside
    assert sum(each["port"] == "q0" for each in values["frames"]) == 64
    [limit] = [each for each in values["left_out"] if each["reason"] == "limit"]
    assert (limit["port"], limit["addresses"]) == ("q0", 3001 - 64)


def test_learn_for_a_thousand_addresses_loses_none(heard: QemuMachine) -> None:
    heard.python("send('mt0', frame(mac))", mac=MACVTAP_MAC)
    for number in range(MANY_PORTS):
        heard.ip(
            f"link add t{number} up type veth peer name w{number}\nlink set w{number} up master br0"
        )
        send = "send(end, *(frame(f'52:54:02:00:{port:02x}:{n:02x}') for n in range(many)))"
        heard.python(send, end=f"t{number}", port=number, many=MANY)
    try:
        clear(heard)
        wanted = MANY_PORTS * MANY + len(BEHIND_BOND0)
        assert learn(heard, "--bond", "bond0")["sent"] == {"0": wanted}
        wait_for(lambda: learning_frames(heard, "a").total() >= wanted, "the frames")
        assert set(learning_frames(heard, "a").values()) == {1}
    finally:
        heard.ip("".join(f"link delete t{number}\n" for number in range(MANY_PORTS)))


def test_learn_with_a_full_queue_counts_each_frame_by_its_errno(heard: QemuMachine) -> None:
    """A bond has no queue of its own: sendto() returns what the queue of its active port says."""
    use(heard, "bond0", "eth1")
    clear(heard)
    with full_queue(heard):
        done = heard.run(*GARP_HINT, "learn", "--json", "--bond", "bond0", "--learn-port", "q0")
    hosts = [mac for mac, _tags in BEHIND_BOND0 if mac.startswith("02:")]
    assert json.loads(done.stdout)["sent"] == {str(errno.ENOBUFS): len(hosts) + 1}
    last = "52:54:00:00:00:fe"
    heard.python("send('eth1', frame(mac))", mac=last)
    wait_for(lambda: sent_by(heard, "b", last), "the last frame")
    assert learning_frames(heard, "b") == Counter()


def test_fq_codel_of_a_port_refuses_nothing_before_the_buffer_of_the_socket_is_full(
    heard: QemuMachine,
) -> None:
    """So the frames of one socket are never lost there: it has 10,240 places."""
    assert "fq_codel" in heard.check("ip", "link", "show", "eth0")
    mac = "52:54:00:00:00:fd"
    with heard.cables["a"].blocked():
        taken, number = heard.python("result = fill('bond0', mac)", mac=mac)
    assert number == errno.EAGAIN
    wait_for(lambda: sent_by(heard, "a", mac) >= taken, "the frames")
    assert sent_by(heard, "a", mac) == taken


# -- the watcher ------------------------------------------------------------------------


@pytest.fixture
def watcher(heard: QemuMachine) -> Iterator[LearningWatcher]:
    heard.python("send('mt0', frame(mac))", mac=MACVTAP_MAC)
    with LearningWatcher(heard) as started:
        yield started


def test_watcher_speaks_for_all_in_four_rounds_although_the_bridges_have_forgotten(
    heard: QemuMachine, watcher: LearningWatcher
) -> None:
    forget(heard)
    clear(heard)
    heard.set_link("a", up=False)
    record = watcher.record(4)
    assert record["sent"] == 4 * len(BEHIND_BOND0)
    assert record["failed"] == {}
    wait_for(lambda: learning_frames(heard, "b").total() >= record["sent"], "the frames")
    assert learning_frames(heard, "b") == Counter(BEHIND_BOND0 * 4)
    assert not any(learning_frames(heard, card) for card in "acd")


def test_watcher_sends_again_what_has_found_a_full_queue(
    heard: QemuMachine, watcher: LearningWatcher
) -> None:
    def waiting() -> bool:
        counts = watcher.status()["learning"]
        return bool(counts["queued"]) and not counts["sent"]

    clear(heard)
    with full_queue(heard):
        heard.set_link("a", up=False)
        wait_for(waiting, "frames that wait for the queue", step=0.1)
    record = watcher.record(4)
    wait_for(lambda: learning_frames(heard, "b").total() >= record["sent"], "the frames")
    assert learning_frames(heard, "b").total() == record["sent"]
    assert set(learning_frames(heard, "b")) == set(BEHIND_BOND0)
    assert set(record["failed"]) <= {str(errno.ENOBUFS)}


def test_watcher_after_a_loss_of_all_carriers_speaks_for_whom_it_can_trust(
    heard: QemuMachine, watcher: LearningWatcher
) -> None:
    """A guest's MAC that was silent meanwhile can be elsewhere now, and a VRRP MAC at any time."""
    heard.python("send('h0', frame(mac))", mac=VRRP)
    for card in "ba":  # the standby first, so that there is no failover
        heard.set_link(card, up=False)
    wait_for(lambda: heard.read("/sys/class/net/bond0/carrier") == "0\n", "bond0 down", step=0.05)
    heard.shell("sleep 1.2")
    heard.python("send('g7', frame('52:54:00:00:00:07'))")
    clear(heard)
    heard.set_link("a", up=True)
    record = watcher.record(1, "back on")
    assert (record["left_out"]["unheard"], record["left_out"]["shared-address"]) == (5, 1)
    wait_for(lambda: learning_frames(heard, "a").total() >= 8, "the frames")
    hosts_and_own = [each for each in BEHIND_BOND0 if each[0].startswith("02:")]
    wanted = {*hosts_and_own, (OWN, ()), MACVTAP, ("52:54:00:00:00:07", (50, 7))}
    assert set(learning_frames(heard, "a")) == wanted


def test_watcher_that_starts_without_carrier_speaks_when_it_comes(heard: QemuMachine) -> None:
    heard.python("send('mt0', frame(mac))", mac=MACVTAP_MAC)
    for card in "ab":
        heard.set_link(card, up=False)
    wait_for(lambda: heard.read("/sys/class/net/bond0/carrier") == "0\n", "bond0 down", step=0.05)
    assert learn(heard)["sent"] == {"0": len(BEHIND_BOND1)}
    clear(heard)
    with LearningWatcher(heard) as watcher:
        heard.set_link("b", up=True)
        watcher.record(1)
        wait_for(lambda: (OWN, ()) in learning_frames(heard, "b"), "the frames")
        assert {HOST, OWN, MACVTAP_MAC} <= {mac for mac, _tags in learning_frames(heard, "b")}
    assert learning_frames(heard, "a") == Counter()


# -- the host's own agent ---------------------------------------------------------------


def test_agent_of_the_host_announces_the_address_of_its_bridge_after_a_failover(
    heard: QemuMachine,
) -> None:
    """The bond announces only addresses on itself and on its VLANs."""
    announced = Announcement("arp-request", HOST, HOST_ADDRESS)
    clear(heard)
    use(heard, "bond0", "eth1")
    heard.python("send('g0', frame('52:54:00:00:00:01'))")  # behind all that the bond sends
    wait_for(lambda: any(f[12:14] == b"\x88\xb5" for f in heard.cables["b"].frames), "a frame")
    assert announced not in heard.cables["b"].announcements()
    with Agent(heard) as agent:
        clear(heard)
        use(heard, "bond0", "eth0")
        heard.cables["a"].wait_for_agent(announced)
        assert agent.sent("notify-peers") >= 1
