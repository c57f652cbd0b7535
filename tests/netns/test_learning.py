"""Learning frames of the running kernel: its tables, its socket, and the command.

Not every kernel that runs the tests has bonds; tests/vm has the frames on a real one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench import lab
from bench.learning_lab import BRIDGE_MAC, RARP, LearningWatcher, ManyGuests
from garp_agent.hypervisor.core.learning_frames import learning_frame
from garp_agent.hypervisor.core.linkstate import VlanTag
from garp_agent.hypervisor.io.learning_socket import LearningSocket
from garp_agent.runtime.exits import EXIT_NO_GUEST, EXIT_NO_PERMISSION
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, eventually, run, watching
from tests.world import mac

GUEST, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
HOST = f"""link add br0 address 02:00:00:00:02:00 up type bridge
link add uplink type ifb
link set uplink master br0
link add p0 up master br0 type veth peer name g0
link add p1 up master br0 type veth peer name g1
link set g0 up address {GUEST}
link set g1 up address {OTHER}
link add link g1 name mt0 up address 52:54:00:00:00:03 type macvtap mode bridge""".splitlines()
CARD = """<domstatus><domain><devices><interface type='bridge'>
  <mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='p0'/>
</interface></devices></domain></domstatus>"""


@pytest.fixture
def host(tiny_lab: lab.TinyLab) -> lab.TinyLab:
    """A bridge with an uplink that is no bond, and two guests, of which one has sent."""
    tiny_lab.ip("guest", *HOST)
    tiny_lab.wait_until_up("guest")
    tiny_lab.ip("guest", "link set uplink up")  # the kernel never tells of its carrier
    with closing(tiny_lab.packet_socket("guest", "g0", 0)) as sender:
        sender.send(learning_frame(mac(GUEST), ()))
    return tiny_lab


def learn(
    where: lab.Lab, *options: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    with where.entered("guest"):
        command = [*prefix, *COMMAND, "learn", *options]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def test_learn_explains_what_it_leaves_out(host: lab.TinyLab, tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(CARD)
    done = learn(host, "--dry-run", "--json", "--libvirt-status", str(tmp_path))
    assert (done.returncode, done.stderr) == (EXIT_NO_GUEST, "")
    values: dict[str, Any] = json.loads(done.stdout)
    assert values["frames"] == []
    found = {(each["port"], each["mac"]): each for each in values["left_out"]}
    assert found["p0", GUEST]["reason"] == "no-path"
    assert found["p0", GUEST]["detail"] == "uplink is no bond"
    assert found["p0", GUEST]["guest"] == "web"
    assert found["mt0", "52:54:00:00:00:03"]["reason"] == "never-sent"
    assert found["br0", "02:00:00:00:02:00"]["reason"] == "no-path"
    assert ("p1", OTHER) not in found  # the bridge has not heard it


def test_learn_prints_a_table_and_a_summary(host: lab.TinyLab) -> None:
    done = learn(host, "--dry-run", "--learn-port", "p*")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["LEFT", "OUT", "PORT", "GUEST", "REASON", "WHY"]
    assert [GUEST, "p0", "-", "no-path", "uplink", "is", "no", "bond"] in map(str.split, lines)
    assert lines[-1] == (
        "0 learning frames would be sent, 1 left out (left-out), 2 left out (no-path)"
    )


def test_learn_without_the_capability_says_so_and_dry_run_needs_none(host: lab.TinyLab) -> None:
    without = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
    done = learn(host, prefix=without)
    assert (done.returncode, done.stdout) == (EXIT_NO_PERMISSION, "")
    assert "CAP_NET_RAW" in done.stderr
    assert learn(host, "--dry-run", prefix=without).returncode == EXIT_NO_GUEST


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--learn-never", "52:54", "is no MAC or MAC/BITS"),
        ("--learn-vlans", "0,4095", "is no VLAN or range; allowed: 0 to 4094"),
        ("--learn-vlans", "9-3", "is no VLAN or range"),
    ],
)
def test_learn_refuses_wrong_values_with_what_is_allowed(
    tiny_lab: lab.TinyLab, option: str, value: str, message: str
) -> None:
    done = learn(tiny_lab, "--dry-run", option, value)
    assert done.returncode == 2
    assert message in done.stderr


# -- the socket -------------------------------------------------------------------------


@pytest.fixture
def sender(tiny_lab: lab.TinyLab) -> Iterator[LearningSocket]:
    with tiny_lab.entered("guest"), closing(LearningSocket()) as made:
        yield made


def index(name: str) -> int:
    return socket.if_nametoindex(name)


@pytest.mark.parametrize("tags", [(), (VlanTag(0x88A8, 50), VlanTag(0x8100, 7))])
def test_frame_leaves_as_it_is_with_all_tags(
    tiny_lab: lab.TinyLab, sender: LearningSocket, tags: tuple[VlanTag, ...]
) -> None:
    frame = learning_frame(mac(GUEST), tags)
    with tiny_lab.entered("guest"), closing(tiny_lab.packet_socket("guest", "eth0")) as seen:
        assert sender.send(index("eth0"), "eth0", [frame, frame]) == (2, 0)
        seen.settimeout(30.0)
        while (received := seen.recv(2048))[6:12] != mac(GUEST):
            pass
    assert received == frame


def test_errors_are_those_of_the_kernel_and_a_new_link_is_found(
    tiny_lab: lab.TinyLab, sender: LearningSocket
) -> None:
    frame = learning_frame(mac(GUEST), ())
    with tiny_lab.entered("guest"):
        tiny_lab.ip("guest", "link add d0 type veth peer name d1")
        first = index("d0")
        assert sender.send(first, "d0", [frame]) == (0, errno.ENETDOWN)
        tiny_lab.ip("guest", "link set d0 up", "link set d1 up")
        assert sender.send(first, "d0", [frame]) == (1, 0)
        tiny_lab.ip("guest", "link delete d0", "link add d0 up type veth peer name d1")
        tiny_lab.ip("guest", "link set d1 up")
        assert sender.send(first, "d0", [frame])[1] in (errno.ENXIO, errno.ENODEV)
        assert sender.send(first, "d0", [frame]) == (0, errno.ENODEV)  # the name is another link's
        assert sender.send(index("d0"), "d0", [frame]) == (1, 0)
        too_long = frame + bytes(1500)
        assert sender.send(index("d0"), "d0", [frame, too_long, frame]) == (1, errno.EMSGSIZE)
        assert sender.send(9999, "w\udcffx", [frame]) == (0, errno.EILSEQ)


def test_sockets_of_bonds_that_are_gone_are_closed(
    tiny_lab: lab.TinyLab, sender: LearningSocket
) -> None:
    frame = learning_frame(mac(GUEST), ())
    with tiny_lab.entered("guest"):
        counts = []
        for _ in range(3):
            tiny_lab.ip("guest", "link add d0 up type veth peer name d1", "link set d1 up")
            assert sender.send(index("d0"), "d0", [frame]) == (1, 0)
            counts.append(len(os.listdir("/proc/self/fd")))
            tiny_lab.ip("guest", "link delete d0")
    assert counts == counts[:1] * 3


def test_socket_without_the_capability_is_refused_when_it_is_made(tiny_lab: lab.TinyLab) -> None:
    code = "from garp_agent.hypervisor.io.learning_socket import LearningSocket; LearningSocket()"
    without = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
    done = subprocess.run(
        [*without, COMMAND[0], "-c", code],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert "NoRawFramesError: learning frames need the capability CAP_NET_RAW" in done.stderr


# -- the watcher ------------------------------------------------------------------------


def test_watcher_with_learn_remembers_what_bridges_have_heard(
    host: lab.TinyLab, short_path: Path
) -> None:
    prefix = ("nsenter", f"--net=/run/netns/{host.namespace('guest')}")
    with watching(short_path, "--learn", prefix=prefix) as watcher:
        eventually(lambda: watcher.ask()["learning"]["remembered"] == 1, "the guest's MAC")
        values = watcher.ask()
        status, _log = watcher.stop()
    assert status == 0
    assert values["learning"]["sent"] == 0


def test_first_frames_leave_before_anything_else_is_done_about_a_failover() -> None:
    """The tables are read, planned and sent in one turn, ahead of hints and path probes."""
    wanted = {mac(BRIDGE_MAC), *(bytes((0x52, 0x54, 0, 0, 0, n)) for n in range(3))}
    with ManyGuests(3) as made, made.entered("host"), closing(LearningWatcher(16)) as watcher:
        watcher.remember(3)
        with closing(made.packet_socket("host", "far", RARP)) as far:
            far.settimeout(30.0)
            watcher.report_failover(0.0)
            assert {far.recv(2048)[6:12] for _ in wanted} == wanted


def test_frames_that_find_a_full_queue_are_sent_again() -> None:
    wanted = {mac(BRIDGE_MAC), *(bytes((0x52, 0x54, 0, 0, 0, n)) for n in range(20))}
    queue = "tc qdisc {} dev bond0 root tbf rate {} burst 100 limit 200"  # room for 3 frames
    with ManyGuests(20) as made, made.entered("host"), closing(LearningWatcher(16)) as watcher:
        watcher.remember(20)
        made.run("host", queue.format("add", "8bit").split())
        with closing(made.packet_socket("host", "far", RARP)) as far:
            watcher.report_failover(0.0)
            assert 0 < watcher.status(0.0)["learning"]["queued"] < len(wanted)
            made.run("host", queue.format("change", "1gbit").split())
            watcher.run_until(lambda status: not status["learning"]["queued"])
            counts = watcher.status(0.0)["learning"]
            far.settimeout(30.0)
            received = [far.recv(2048)[6:12] for _ in range(counts["sent"])]
    assert set(received) == wanted
    assert counts["failed"] == {}


def lines(text: str) -> list[str]:
    """Return the lines of a table, with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_list_shows_guests_without_channel_with_their_ways(
    host: lab.TinyLab, short_path: Path
) -> None:
    """br0 is followed; its uplink is no bond."""
    (short_path / "web.xml").write_text(CARD)
    options = ("--libvirt-status", str(short_path), "--channel", str(short_path / "none"))
    with host.entered("guest"):
        alone = run("list", *options, "--status-socket", str(short_path / "no"))
        with watching(short_path, "--learn", *options) as watcher:
            eventually(lambda: watcher.ask()["learning"]["remembered"], "it has read the tables")
            listed = run("list", *options, "--status-socket", watcher.status_socket)
            status = run("status", "--status-socket", watcher.status_socket)
    assert alone[0] == EXIT_NO_GUEST
    assert "web no-channel nothing (no watcher answers) - - p0 br0 -" in lines(alone[1])
    found = {line.split()[0]: line for line in lines(listed[1])}
    assert found["web"] == "web no-channel nothing (uplink is no bond) - - p0 br0 -"
    assert found["p1"] == "p1 no-channel nothing (nothing was heard from it) - - p1 br0 -"
    assert "not announced: web: uplink is no bond" in status[1].splitlines()


def test_watcher_with_learn_but_without_the_capability_ends_at_its_start(
    tiny_lab: lab.TinyLab, tmp_path: Path
) -> None:
    without = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
    status_socket = str(tmp_path / "s")
    done = subprocess.run(
        [*without, *COMMAND, "watch", "--learn", "--status-socket", status_socket],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == EXIT_NO_PERMISSION
    assert "CAP_NET_RAW" in done.stderr
    assert not Path(status_socket).exists()


def test_watcher_refuses_choices_without_learn() -> None:
    status, _, err = run("watch", "--learn-port", "vnet*")
    assert status == 2
    assert "--learn-port needs --learn" in err
