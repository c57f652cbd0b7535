"""``garp-hint probe`` and ``garp-hint drill`` on a real bond: the fault is seen without a cable."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.vm.agent import Agent
from tests.vm.fabric import GUEST_MAC
from tests.vm.qemu import QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, INTERFACES, OTHER, HintWatcher, Testbed

pytestmark = pytest.mark.netns
CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")  # of a terminal
SILENT = {"vnet0": "br0", "vnet1": "br1", "vnet100": "br100", "vnet200": "br200"}
TUNS = """
import fcntl, os, struct
def tun(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002))
    return descriptor
def send(name, mac):
    frame = bytes([255] * 6) + bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("88b6")
    os.write(tuns[name], frame.ljust(60, bytes(1)))
tuns = {}
"""
# A shell with a job in the foreground of a terminal of 80 columns.  The user types Ctrl-Z when the
# bond has been switched.
TERMINAL = """
import fcntl, os, pty, signal, struct, sys, termios, time
def active():
    with open("/sys/class/net/bond0/bonding/active_slave") as file:
        return file.read()
before = active()
shell, screen = pty.fork()
if not shell:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    job = os.fork()
    if not job:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])
    status = os.waitpid(job, os.WUNTRACED)[1]
    os._exit(99 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status))
while active() == before:
    time.sleep(0.01)
os.write(screen, bytes([26]))
try:
    while part := os.read(screen, 65536):
        os.write(1, part)
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]))
"""
# bond1 has one port at switch a and two at switch b, which are bridges in another namespace.
SECOND_BOND = """
link add bond1 type bond mode active-backup miimon 10
link add t0 type veth peer name p0 netns switches
link add t1 type veth peer name p1 netns switches
link add t2 type veth peer name p2 netns switches
link set t0 master bond1
link set t1 master bond1
link set t2 master bond1
link add br1 up type bridge forward_delay 0 mcast_snooping 0
link set bond1 master br1 up
link add link bond1 bond1.100 up type vlan id 100
link add br100 up type bridge forward_delay 0 mcast_snooping 0
link set bond1.100 master br100
link add link bond1 bond1.200 up type vlan id 200
link add br200 up type bridge forward_delay 0 mcast_snooping 0
link set bond1.200 master br200
"""
SWITCHES = """
link add name a up type bridge forward_delay 0 mcast_snooping 0 vlan_filtering 1
link add name b up type bridge forward_delay 0 mcast_snooping 0 vlan_filtering 1
link add isl-a type veth peer name isl-b
link set isl-a master a up
link set isl-b master b up
link set p0 master a up
link set p1 master b up
link set p2 master b up
"""
PORTS = ("isl-a", "isl-b", "p0", "p1", "p2")


@pytest.fixture
def silent(testbed: Testbed) -> Iterator[Testbed]:
    """The hypervisor has a guest without agent, too."""
    with silent_guests(testbed.hypervisor, "vnet0"):
        yield testbed


@contextmanager
def silent_guests(hypervisor: QemuMachine, *names: str) -> Iterator[None]:
    """Guests without agent behind these ports, which have just sent."""
    hypervisor.insert("tun")
    hypervisor.python(TUNS)
    for name in names:
        hypervisor.python("tuns[name] = tun(name)", name=name)
        hypervisor.ip(f"link set {name} address fe:{mac_of(name)[3:]} master {SILENT[name]} up")
        hypervisor.python("send(name, mac)", name=name, mac=mac_of(name))
    yield
    hypervisor.python("[os.close(each) for each in tuns.values()]")


@pytest.fixture
def second_bond(testbed: Testbed) -> Iterator[QemuMachine]:
    """The hypervisor has bond1, with guests in br1 and in two VLANs; t1 is its active port."""
    hypervisor = testbed.hypervisor
    hypervisor.insert("veth", "8021q")
    hypervisor.check("ip", "netns", "add", "switches")
    try:
        hypervisor.ip(SECOND_BOND)
        hypervisor.check("ip", "-n", "switches", "-batch", "-", stdin=SWITCHES)
        vlans = "".join(f"vlan add dev {port} vid {vid}\n" for port in PORTS for vid in (100, 200))
        hypervisor.check("bridge", "-n", "switches", "-batch", "-", stdin=vlans)
        for port in ("t0", "t1", "t2"):
            hypervisor.ip(f"link set {port} up")
            path = f"/sys/class/net/{port}/bonding_slave/mii_status"
            wait_for(lambda path=path: hypervisor.read(path) == "up\n", "a port is up", step=0.05)
        hypervisor.ip("link set bond1 type bond active_slave t1")
        with silent_guests(hypervisor, "vnet1", "vnet100", "vnet200"):
            yield hypervisor
    finally:
        for name in ("br200", "br100", "br1", "bond1"):
            hypervisor.run("ip", "link", "del", name)
        hypervisor.check("ip", "netns", "del", "switches")  # and with it the ports


def mac_of(name: str) -> str:
    return f"52:54:00:00:01:{90 + list(SILENT).index(name)}"


def hint(testbed: Testbed, *arguments: str) -> tuple[int, str, str]:
    done = testbed.hypervisor.run(*GARP_HINT, *arguments)
    return done.returncode, done.stdout, done.stderr


def probe(testbed: Testbed) -> tuple[int, dict[str, str]]:
    """Return the exit status, and the verdict on each MAC."""
    status, out, err = hint(testbed, "probe", "--json")
    assert err == ""
    return status, {each["mac"]: each["verdict"] for each in json.loads(out)["targets"]}


def switch(testbed: Testbed, uplink: str) -> None:
    testbed.hypervisor.ip(f"link set bond0 type bond active_slave {INTERFACES[uplink]}")


def drill(testbed: Testbed, *options: str) -> tuple[int, dict[str, Any]]:
    """Run a drill; the bond is back afterwards."""
    before = testbed.active
    status, out, _err = hint(testbed, "drill", "--yes", "--json", *options)
    assert testbed.active == before
    values: dict[str, Any] = json.loads(out)
    return status, values


def outages_of_guest(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        guest
        for direction in values["directions"]
        for guest in direction["guests"]
        if guest["mac"] == GUEST_MAC
    ]


def test_probe_sees_where_the_network_has_a_silent_guest(testbed: Testbed) -> None:
    bridge = testbed.hypervisor.read("/sys/class/net/br0/address").strip()
    assert probe(testbed)[1][GUEST_MAC] == "delivered"
    switch(testbed, OTHER[testbed.active])
    status, verdicts = probe(testbed)
    assert (status, verdicts[GUEST_MAC]) == (1, "lost")
    testbed.guest_sends()
    status, verdicts = probe(testbed)
    assert verdicts[GUEST_MAC] == "delivered"
    assert set(verdicts) == {GUEST_MAC, bridge}


def test_probe_sees_a_standby_port_that_does_not_forward(testbed: Testbed) -> None:
    testbed.fabric.forward(OTHER[testbed.active], False)
    status, verdicts = probe(testbed)
    assert (status, set(verdicts.values())) == (1, {"lost"})
    status, out, err = hint(testbed, "drill", "--yes")
    assert (status, out) == (1, "")
    assert "no drill: 2 of 2 paths do not work" in err


Found = set[tuple[Any, ...]]


def verdicts_of_bond1(testbed: Testbed) -> tuple[int, Found, Found]:
    """Return the exit status; standby port, guest port and VLANs of what is delivered, and lost."""
    status, out, _err = hint(testbed, "probe", "--json", "--bond", "bond1")
    found: dict[str, Found] = {"delivered": set(), "lost": set()}
    for each in json.loads(out)["targets"]:
        assert each["active"] == "t1"
        found[each["verdict"]].add((each["standby"], each["port"], *each["vlans"]))
    return status, found["delivered"], found["lost"]


def behind(standby: str) -> Found:
    """Return all that is behind bond1, for one standby port."""
    untagged = {(standby, "br1"), (standby, "vnet1")}
    return untagged | {(standby, f"{kind}{n}", n) for kind in ("br", "vnet") for n in (100, 200)}


def test_each_standby_port_of_a_bond_with_three_ports_is_probed(
    testbed: Testbed, second_bond: QemuMachine
) -> None:
    assert verdicts_of_bond1(testbed) == (0, behind("t0") | behind("t2"), set())
    state = ("p2", "type", "bridge_slave", "state", "1")  # listening
    second_bond.check("ip", "-n", "switches", "link", "set", *state)
    assert verdicts_of_bond1(testbed) == (1, behind("t0"), behind("t2"))
    assert "bond1: t2 -> t1: all 4 MACs lost" in hint(testbed, "probe", "--bond", "bond1")[1]


def test_standby_port_with_port_security_is_found(
    testbed: Testbed, second_bond: QemuMachine
) -> None:
    """The switch drops frames of hardware addresses that it does not know behind the port."""
    state = ("dev", "p2", "learning", "off", "locked", "on")
    second_bond.check("bridge", "-n", "switches", "link", "set", *state)
    assert verdicts_of_bond1(testbed) == (1, behind("t0"), behind("t2"))


def test_vlan_that_one_switch_lacks_is_named(testbed: Testbed, second_bond: QemuMachine) -> None:
    second_bond.check("bridge", "-n", "switches", "vlan", "del", "dev", "p0", "vid", "200")
    lost = {each for each in behind("t0") if 200 in each}
    assert verdicts_of_bond1(testbed) == (1, (behind("t0") | behind("t2")) - lost, lost)
    told = "bond1: t0 -> t1: VLAN 200 lost, 2 MACs: the standby port, or a link"
    assert told in hint(testbed, "probe", "--bond", "bond1")[1]
    status, out, err = hint(testbed, "drill", "--yes", "--bond", "bond1")
    assert (status, out) == (1, "")
    assert told in err
    assert "no drill: 2 of 12 paths do not work" in err
    assert second_bond.read("/sys/class/net/bond1/bonding/active_slave") == "t1\n"
    findings = json.loads(hint(testbed, "doctor", "--json")[1])["findings"]
    paths = [each for each in findings if each["check"] == "paths"]
    assert [each["level"] for each in paths] == ["fail", "ok"]
    assert paths[0]["found"].startswith(told)


def test_doctor_sees_the_bond_and_the_paths(testbed: Testbed) -> None:
    def doctor(*options: str) -> dict[str, list[tuple[str, str]]]:
        """Return level and text of the findings, by check."""
        told = json.loads(hint(testbed, "doctor", "--json", *options)[1])
        found: dict[str, list[tuple[str, str]]] = {}
        for each in told["findings"]:
            found.setdefault(each["check"], []).append((each["level"], each["found"]))
        return found

    active = INTERFACES[testbed.active]
    described = f"active-backup, miimon 10, ports eth0, eth1, {active} is active"
    with Agent(testbed.guest), HintWatcher(testbed.hypervisor):
        found = doctor("--timeout", "60")
        assert found["bond bond0"] == [("ok", described)]
        assert found["paths"] == [("ok", "delivered from the standby port: 2 of 2")]
        assert ("ok", "1 guest answers: guest") in found["guests"]
        assert found["watcher"][0][0] == found["capabilities"][0][0] == "ok"
    testbed.hypervisor.ip("link set bond0 type bond miimon 100 all_slaves_active 1")
    testbed.fabric.forward(OTHER[testbed.active], False)
    found = doctor()
    testbed.hypervisor.ip("link set bond0 type bond miimon 10 all_slaves_active 0")
    assert [level for level, _ in found["bond bond0"]] == ["warn", "fail"]
    assert found["bond bond0"][0][1].startswith("miimon is 100: ")
    assert [level for level, _ in found["paths"]] == ["fail"]
    assert "all 2 MACs lost: the switches are not joined" in found["paths"][0][1]
    assert found["watcher"][0][0] == "fail"


def test_drill_shows_the_guest_that_is_announced_and_puts_the_bond_back(testbed: Testbed) -> None:
    with Agent(testbed.guest), HintWatcher(testbed.hypervisor):
        status, values = drill(testbed, "--limit", "30")
    assert status == 0
    assert [guest["seconds"] is not None for guest in outages_of_guest(values)] == [True, True]
    assert values["passed"]


def test_drill_shows_the_guest_that_is_silent(testbed: Testbed) -> None:
    status, values = drill(testbed, "--html", "/tmp/drill.html")
    first, back = outages_of_guest(values)
    assert (status, first["seconds"]) == (1, None)
    assert first["lost"] > 0
    assert back["seconds"] == 0.0  # the network had not noticed that it had been away
    assert "not healed" in testbed.hypervisor.read("/tmp/drill.html")


def test_drill_that_is_interrupted_puts_the_bond_back(testbed: Testbed) -> None:
    before = testbed.active
    process = testbed.hypervisor.spawn(*GARP_HINT, "drill", "--yes", "--count", "100")
    wait_for(lambda: testbed.active != before, "the switch", step=0.02)
    process.signal(signal.SIGINT)
    assert process.wait() == 1
    assert testbed.active == before
    assert "interrupted" in process.output


def test_drill_on_a_terminal_shows_its_progress_and_ignores_control_z(testbed: Testbed) -> None:
    before = testbed.active
    testbed.hypervisor.python("import os; os.makedirs('/dev/pts', exist_ok=True)")
    testbed.hypervisor.shell("mount -t devpts devpts /dev/pts")
    process = testbed.hypervisor.spawn("python3", "-c", TERMINAL, *GARP_HINT, "drill", "--yes")
    assert process.wait() == 1, process.output  # the guest is silent; 99: the drill was stopped
    assert testbed.active == before
    assert "Ctrl-Z is ignored" in process.output
    assert re.search(r"guests reached again +\[#+\] +100%", process.output)
    lines = CONTROL.sub("", process.output).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80


def test_watcher_hints_when_the_path_forwards_and_verifies(silent: Testbed) -> None:
    """The bond returns to a port that has carrier, and whose switch port forwards later.

    One guest has an agent, another one gets learning frames.
    """
    testbed, late = silent, OTHER[silent.active]
    options = ("--verify", "--learn")
    with Agent(testbed.guest) as agent, HintWatcher(testbed.hypervisor, *options) as watcher:
        agent.wait_until(lambda status: status["lease"], "the lease")
        testbed.cut(late)
        agent.wait_until_settled()
        testbed.mend(late, forwards=False)
        before = agent.sent("hint")
        switch(testbed, late)
        wait_for(lambda: watcher.status()["history"], "the failover", step=0.1)
        assert agent.sent("hint") == before
        testbed.fabric.forward(late, True)
        entry = wait_for(lambda: over(watcher), "all addresses reached", step=0.1)
        shown = [hint(testbed, command)[1] for command in ("history", "status")]
        places = testbed.fabric.fdb(f"switch-{late}")
    assert {places.get(mac) for mac in (GUEST_MAC, mac_of("vnet0"))} == {"uplink"}
    slowest = entry["verified"]["slowest_seconds"] * 1000
    told = f"verified: 3 of 3, slowest {slowest:.0f} ms"
    assert [told in text for text in shown] == [True, True]
    assert entry["verified"]["forwards_seconds"] > 0
    assert entry["verified"]["slowest_seconds"] >= entry["verified"]["forwards_seconds"]
    assert (entry["answered"], entry["rounds"] >= 1) == (1, True)


def over(watcher: HintWatcher) -> dict[str, Any]:
    """Return the last failover when all addresses have been reached; empty until then."""
    entry: dict[str, Any] = watcher.status()["history"][-1]
    found = entry["verified"] or {"reached": 0, "addresses": 1}
    return {} if entry["repeating"] or found["reached"] < found["addresses"] else entry
