"""Booted systems: the package's whole life under the real systemd, and rc.local without it.

Each boots a Debian under QEMU (software emulation), which takes the better part of a minute.
`make test-packages`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.booted import ADDRESS, BOOT, MAC, Booted
from tests.packaging.conftest import tool
from tests.packaging.support import CONTRIB, ROOT, need, run
from tests.vm import images
from tests.vm.machine import HINT_PORT
from tests.vm.wire import Told

pytestmark = pytest.mark.vm

build_deb = tool("build_deb")
OURS = Told("arp-request", MAC, ADDRESS)
CAP_NET_RAW = 1 << 13
CAP_DAC_OVERRIDE = 1 << 1
# (The kernel has a module called garp, which is about VLAN registration.)
LEFT = """
find / /run -xdev -name '*garp*' -not -path '/var/log/*' -not -path '/payload/*' \\
    -not -name 'garp.ko*' -not -path '/run/udev/links/*'
getent group garp || true
"""


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The agent's package of this tree, and one of an earlier version."""
    need("dh", "debhelper")
    folder = tmp_path_factory.mktemp("debs")
    made = build_deb.build(folder, build_deb.version())
    made += build_deb.build(folder / "earlier", f"{build_deb.version()}~earlier")
    return [path for path in made if path.name.startswith("garp-agent_")]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Booted]]:
    """Boots a system; a second time from the disk that the first one left."""
    if reason := images.missing_tool():
        pytest.skip(reason)
    booted: list[Booted] = []

    def boot_one(name: str, **options: Any) -> Booted:
        booted.append(Booted(name, tmp_path, **options))
        return booted[-1].ready()

    yield boot_one
    for system in booted:
        system.stop()


def show(system: Booted, prop: str, unit: str = "garp-agent") -> str:
    return system.check("systemctl", "show", "--value", "-p", prop, unit).strip()


def announced(system: Booted, since: int) -> None:
    """The address was announced by us, not the kernel: padded."""
    system.wires["net0"].wait_for(lambda told: OURS in told, "an announcement", since, BOOT)
    ours = [frame for frame in system.wires["net0"].frames[since:] if frame.told == OURS]
    assert all(frame.padded for frame in ours)


def hinted(system: Booted) -> dict[str, Any]:
    """The reply to a hint through the real port."""
    mark = system.wires["net0"].mark
    host = system.hint()
    host.send(b'\xff{"execute": "burst", "id": 7}\n')
    reply = host.wait_for_line()
    system.hang_up()
    announced(system, mark)
    return dict(json.loads(reply))


def active(system: Booted, unit: str = "garp-agent") -> None:
    system.wait_until(lambda: show(system, "ActiveState", unit) == "active", "active", BOOT)


def reboot(system: Booted) -> None:
    """From inside, by the system's own means; it is off then."""
    system.spawn("sh", "-c", "sleep 1; exec reboot")
    system.wait_until_off()


def active_with_another_process(system: Booted, before: str) -> None:
    system.wait_until(
        lambda: show(system, "ActiveState") == "active" and show(system, "MainPID") != before,
        "active again",
        BOOT,
    )


@pytest.mark.parametrize("name", ["booted-bookworm", "booted-trixie"])
def test_the_packages_life(boot: Callable[..., Booted], debs: list[Path], name: str) -> None:
    system = boot(name, payload=debs)
    system.shell("mkdir -p /payload; mount -o ro /dev/vdb /payload")
    assert system.shell(LEFT) == ""

    # Installed: started by the package, on a running system.
    mark = system.wires["net0"].mark
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y /payload/garp-agent_{}_all.deb"
    system.shell(install.format(f"{build_deb.version()}~earlier"), patience=BOOT)
    active(system)
    announced(system, mark)

    # As nobody in particular, with one capability.
    process = show(system, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in system.read(f"/proc/{process}/status").splitlines()
    )
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == CAP_NET_RAW
    group = system.check("getent", "group", "garp").split(":")[2]
    assert group in status["Groups"].split()
    # udev has been asked to; on a busy machine it does not keep up with the installation.
    stat = ("stat", "-Lc", "%a %G", f"/dev/virtio-ports/{HINT_PORT}")
    system.wait_until(lambda: system.check(*stat) == "660 garp\n", "the port's group", BOOT)
    assert system.check("stat", "-c", "%a", "/run/garp-agent/control.sock") == "660\n"

    # Hinted at through the real port, as that user.
    assert hinted(system)["return"]["frames"] >= 1
    assert "org.garp_agent.0" in system.check("garp-agent", "status")

    # Reloaded: a bad file is refused, and nothing ends.
    system.write("/etc/garp-agent/config.yaml", "interval: never\n")
    system.check("systemctl", "reload", "garp-agent")
    system.wait_until(
        lambda: "configuration-refused" in system.check("journalctl", "-u", "garp-agent"), "refusal"
    )
    assert show(system, "MainPID") == process
    system.write("/etc/garp-agent/config.yaml", "interval: 2s\n")
    system.check("systemctl", "reload", "garp-agent")
    system.wait_until(
        lambda: "configuration-loaded" in system.check("journalctl", "-u", "garp-agent"), "reload"
    )
    assert show(system, "MainPID") == process

    # Killed: started again.  Hanging: killed by the watchdog, started again.
    system.shell(f"kill -9 {process}")
    active_with_another_process(system, process)
    system.shell(
        "mkdir -p /run/systemd/system/garp-agent.service.d\n"
        "printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/garp-agent.service.d/t.conf\n"
        "systemctl daemon-reload; systemctl restart garp-agent"
    )
    process = show(system, "MainPID")
    system.shell(f"kill -STOP {process}")
    active_with_another_process(system, process)
    journal = system.check("journalctl", "-u", "garp-agent")
    assert "Watchdog timeout" in journal
    assert "result 'watchdog'" in journal
    system.shell("rm -r /run/systemd/system/garp-agent.service.d; systemctl daemon-reload")

    # A bad configuration at the start: once, and no more.
    system.write("/etc/garp-agent/config.yaml", "interval: never\n")
    assert system.run("systemctl", "restart", "garp-agent").status != 0
    assert show(system, "ActiveState") == "failed"
    assert show(system, "ExecMainStatus") == "78"
    system.write("/etc/garp-agent/config.yaml", "interval: 2s\n")
    system.check("systemctl", "start", "garp-agent")

    # Upgraded while it runs.
    process, mark = show(system, "MainPID"), system.wires["net0"].mark
    system.shell(install.format(build_deb.version()), patience=BOOT)
    active(system)
    assert show(system, "MainPID") != process
    assert system.read("/etc/garp-agent/config.yaml") == "interval: 2s\n"
    announced(system, mark)

    # Rebooted: announced while it boots.  This time without a port, which comes later, on a
    # controller that the running service has never heard of.
    reboot(system)
    system = boot(name, hint_port=False)
    announced(system, 0)
    active(system)
    plug_controller_and_port(system)
    system.wait_until(lambda: "host" in port_state(system), "the port is open", BOOT)
    assert hinted(system)["return"]["frames"] >= 1

    # Purged: nothing is left.
    system.shell("DEBIAN_FRONTEND=noninteractive apt-get purge -y garp-agent", patience=BOOT)
    assert "garp" not in system.shell("cat /proc/[0-9]*/comm")
    assert system.shell(LEFT) == ""


def port_state(system: Booted) -> str:
    done = system.run("garp-agent", "status", "--json")
    return str(json.loads(done.stdout)["hint_port"]["state"]) if done.status == 0 else ""


def plug_controller_and_port(system: Booted) -> None:
    system.qmp("device_add", driver="virtio-serial-pci", id="late", bus="slot0")
    path = {"type": "unix", "data": {"path": str(system.hint_path)}}
    backend = {"type": "socket", "data": {"addr": path, "server": True, "wait": False}}
    system.qmp("chardev-add", id="late-socket", backend=backend)
    port = {"driver": "virtserialport", "id": "port0", "chardev": "late-socket"}
    system.qmp("device_add", **port, name=HINT_PORT, bus="late.0")


def test_rc_local_without_systemd(boot: Callable[..., Booted], pyz: Path) -> None:
    starter = CONTRIB / "rc.local" / "garp-start"
    rc_local = CONTRIB / "rc.local" / "rc.local"
    system = boot("booted-sysv", payload=[pyz, starter, rc_local])
    assert system.check("cat", "/proc/1/comm") == "init\n"
    system.shell(
        "mkdir -p /payload; mount -o ro /dev/vdb /payload\n"
        "install -m 0755 /payload/garp-start /usr/local/sbin/garp-start\n"
        "install -m 0755 /payload/rc.local /etc/rc.local\n"
        "sync"
    )
    # First the fall-back loop: there is no agent in this image.
    reboot(system)
    system = boot("booted-sysv")
    wire = system.wires["net0"]
    wire.wait_for(lambda told: OURS in told, "an announcement of the loop", 0, BOOT)
    assert "garp-start loop" in system.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    system.shell(
        "mount -o ro /dev/vdb /payload\n"
        "install -D -m 0755 /payload/garp-agent.pyz /usr/local/lib/garp-agent/garp-agent.pyz\n"
        "sync"
    )
    # Then with it.
    reboot(system)
    system = boot("booted-sysv")
    announced(system, 0)
    assert "running" in system.check("/usr/local/sbin/garp-start", "status")
    assert hinted(system)["return"]["frames"] >= 1


def test_cloud_init_with_a_nocloud_seed(boot: Callable[..., Booted], tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: test\nlocal-hostname: guest\n")
    (seed / "network-config").write_text(
        f"version: 2\nethernets:\n  eth0:\n    addresses: [{ADDRESS}/24]\n"
    )
    (seed / "user-data").write_text(run(sys.executable, ROOT / "tools" / "cloud_init.py"))
    put = {f"/var/lib/cloud/seed/nocloud/{each.name}": each for each in seed.iterdir()}
    system = boot("booted-cloud", put=put)
    finished = "/var/lib/cloud/instance/boot-finished"
    system.wait_until(
        lambda: system.run("test", "-e", finished).status == 0, "cloud-init is done", 2 * BOOT
    )
    active(system)
    announced(system, 0)
    assert show(system, "ExecStart").count("/usr/local/sbin/garp-agent") >= 1
    assert system.read("/etc/garp-agent/config.yaml") == "interval: 5s\n"
    assert hinted(system)["return"]["frames"] >= 1


CHANNEL = "/run/libvirt/qemu/channel/1-guest"
LISTENER = f"""
import os, socket
os.makedirs("{CHANNEL}")
server = socket.socket(socket.AF_UNIX)
server.bind("{CHANNEL}/{HINT_PORT}")
for path in ("{CHANNEL}/{HINT_PORT}", "{CHANNEL}", "/run/libvirt/qemu"):
    os.chown(path, 107, 107)  # QEMU's user on some system, and nobody else's business
    os.chmod(path, 0o700)
server.listen()
while True:
    client, _ = server.accept()
    with client, client.makefile("rb") as lines:
        for line in lines:
            print(line.lstrip(b"\\xff").decode(), end="", flush=True)
"""


def test_garp_hint_on_a_hypervisor(
    boot: Callable[..., Booted], tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = build_deb.build(tmp_path_factory.mktemp("hint"), build_deb.version())
    package = next(path for path in made if path.name.startswith("garp-hint_"))
    system = boot("booted-bookworm", payload=[package])
    guest = system.spawn("python3", "-c", LISTENER)
    system.shell("mkdir -p /payload; mount -o ro /dev/vdb /payload")
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y /payload/garp-hint_*.deb"
    system.shell(install, patience=BOOT)
    active(system, "garp-hint")
    process = show(system, "MainPID", "garp-hint")
    status = dict(
        line.split(":\t", 1) for line in system.read(f"/proc/{process}/status").splitlines()
    )
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == CAP_DAC_OVERRIDE
    system.wait_until(
        lambda: "guest" in system.check("garp-hint", "status").splitlines()[-1],
        "the guest is found",
    )

    # A bond of its own fails over; the guest is told, through a socket that is not ours.
    system.shell(
        "ip link add bond0 type bond mode active-backup miimon 50\n"
        "for link in one two; do ip link add $link type dummy; ip link set $link master bond0; "
        "done\n"
        "ip link set bond0 up"
    )
    system.wait_until(lambda: "bond0" in system.check("garp-hint", "status"), "the bond is seen")
    bursts = guest.output.count('"burst"')
    system.shell("ip link set $(cat /sys/class/net/bond0/bonding/active_slave) down")
    system.wait_until(lambda: guest.output.count('"burst"') > bursts, "the guest's hint")
    # And it survives a reload of its own unit.
    system.check("systemctl", "reload", "garp-hint")
    assert show(system, "MainPID", "garp-hint") == process
