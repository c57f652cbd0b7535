"""Booted systems: the packages under the real systemd, and rc.local without it.

Each boots a Debian under QEMU (software emulation) from a disk, with Debian's own kernel, initrd
and init, which takes about a minute.  Ports, cables and commands inside are those of tests/vm: its
control server is one more service.
`make test-packages`
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.rootfs import tarball
from tests.packaging.support import CONTRIB, ROOT, need, run
from tests.vm import images, kernels, tsc
from tests.vm.frames import Announcement
from tests.vm.qemu import HINT_PORT, Card, QemuMachine
from tests.vm.receiver import wait_for

pytestmark = pytest.mark.vm

ADDRESS = "192.0.2.10"
MAC = "52:54:00:00:00:01"
BOOT = 300.0  # seconds until a system counts as hung
KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr "
    "tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 quiet "
    f"systemd.default_timeout_start_sec={BOOT:.0f}"
)
CONTROL = "/usr/bin/python3 -S /opt/test/guest_control.py"
SYSTEMD_CONTROL = f"""[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
ExecStart={CONTROL}
Restart=always
RestartSec=0.5
[Install]
WantedBy=sysinit.target
"""
SYSTEMD_NETWORK = f"""[Match]
Name=eth0
[Network]
Address={ADDRESS}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
SYSV_SERVICES = f"""tc:2345:respawn:{CONTROL}
tl:2345:once:ip link set eth0 up
ta:2345:once:ip address add {ADDRESS}/24 dev eth0
"""

OURS = Announcement("arp-request", MAC, ADDRESS)
CAP_DAC_OVERRIDE = 1 << 1
CAP_NET_RAW = 1 << 13
# The kernel has a module garp as well, for VLAN registration.
FIND_OURS = """
find / /run -xdev -name '*garp*' -not -path '/var/log/*' -not -path '/payload/*' \\
    -not -name 'garp.ko*' -not -path '/run/udev/links/*'
getent group garp || true
"""
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y {}"
PURGE = "DEBIAN_FRONTEND=noninteractive apt-get purge -y {}"
CONFIG = "/etc/garp-agent/config.yaml"
PORT_MODE = ("stat", "-Lc", "%a %G", f"/dev/virtio-ports/{HINT_PORT}")


def make_disk(name: str, folder: Path, files: Mapping[str, Path]) -> None:
    """Make disk, kernel and initrd of the system of this recipe, with more files on it."""
    image = tarball(name)
    with tempfile.TemporaryDirectory(prefix="garp-disk-") as scratch:
        top = Path(scratch)
        run("tar", "-xf", image, "-C", top)
        (kernel,) = (top / "boot").glob("vmlinuz-*")
        (initrd,) = (top / "boot").glob("initrd.img-*")
        (folder / "kernel").write_bytes(kernels.without_decompressor(kernel.read_bytes()))
        shutil.copy(initrd, folder / "initrd")
        (top / "etc/hostname").write_text("guest\n")
        (top / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        control = Path(images.__file__).with_name("guest_control.py")
        for inside, source in {**files, "/opt/test/guest_control.py": control}.items():
            place = top / inside.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        if (top / "etc/inittab").exists():
            with (top / "etc/inittab").open("a") as inittab:
                inittab.write(SYSV_SERVICES)
        else:
            (top / "etc/systemd/system/test-control.service").write_text(SYSTEMD_CONTROL)
            (top / "etc/systemd/network/10-eth0.network").write_text(SYSTEMD_NETWORK)
            units = ("test-control.service", "systemd-networkd.service")
            run("systemctl", f"--root={top}", "enable", *units)
        mke2fs = need("mke2fs", "e2fsprogs")
        run(mke2fs, "-q", "-t", "ext4", "-d", top, folder / "disk", "1500M")


class Booted(QemuMachine):
    """A system that runs from its disk; a second one may boot the disk that it leaves."""

    def __init__(
        self, name: str, folder: Path, files: Mapping[str, Path] | None = None, **options: Any
    ) -> None:
        self._made = folder
        if not (folder / "disk").exists():
            make_disk(name, folder, files or {})
        super().__init__(name, cards=[Card("net0", MAC)], memory=512, **options)

    def _boot_arguments(self) -> list[str]:
        return [
            *("-kernel", str(self._made / "kernel"), "-initrd", str(self._made / "initrd")),
            *("-append", f"{KERNEL_COMMAND_LINE} tsc_early_khz={tsc.tsc_khz()}"),
            *("-drive", f"file={self._made / 'disk'},if=virtio,format=raw,cache=unsafe"),
        ]

    def ready(self) -> Booted:
        """Return this system once it runs commands."""
        self.call("python", BOOT, source="", arguments={})
        return self

    def reboot(self) -> None:
        """Reboot from inside; return when the system is off."""
        self.spawn("sh", "-c", "sleep 1; exec reboot")
        wait_for(lambda: not self.alive, f"{self.name}: shut down", BOOT)


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Booted]]:
    """Boots a system; a second call boots the disk that the first one left."""
    if reason := images.missing_tool():
        pytest.skip(reason)
    booted: list[Booted] = []

    def boot_one(name: str, *payload: Path, **options: Any) -> Booted:
        files = {**{f"/payload/{each.name}": each for each in payload}, **options.pop("files", {})}
        booted.append(Booted(name, tmp_path, files, **options))
        return booted[-1].ready()

    yield boot_one
    for system in booted:
        system.stop()


def show(system: Booted, name: str, unit: str = "garp-agent") -> str:
    return system.check("systemctl", "show", "--value", "-p", name, unit).strip()


def announced(system: Booted) -> None:
    """Wait for an announcement; each is padded, so none is the kernel's."""
    system.cables["net0"].wait_for_agent(OURS, timeout=BOOT)
    assert OURS not in system.cables["net0"].announcements(padded=False)


def hinted(system: Booted) -> None:
    """Hint through the port; the agent answers and announces."""
    system.cables["net0"].clear()
    with system.hint() as host:
        host.send(b'\xff{"execute": "burst", "id": 7}\n')
        assert host.next_reply()["return"]["frames"] >= 1
    announced(system)


def active(system: Booted, unit: str = "garp-agent", before: str = "") -> str:
    """Wait until the unit is active, with another process than before; return its process.

    No job of systemd is left: garp-agent-port.service could restart the agent after that.
    """
    system.wait_until(
        lambda: (
            show(system, "ActiveState", unit) == "active"
            and show(system, "MainPID", unit) != before
            and "No jobs" in system.check("systemctl", "list-jobs")
        ),
        "active",
        BOOT,
    )
    return show(system, "MainPID", unit)


def unprivileged(system: Booted, process: str, capability: int) -> dict[str, str]:
    """Check that a process is not root's and has one capability; return its /proc/PID/status."""
    lines = system.read(f"/proc/{process}/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == capability
    return status


@pytest.mark.parametrize("name", ["booted-bookworm", "booted-trixie"])
def test_package_lives_under_systemd_and_leaves_nothing(
    boot: Callable[..., Booted], debs: dict[str, Path], name: str
) -> None:
    system = boot(name, debs["earlier"], debs["garp-agent"])
    assert system.shell(FIND_OURS) == ""
    starts_when_installed(system, debs["earlier"])
    reloads(system)
    is_started_again(system)
    upgrades(system, debs["garp-agent"])
    system.reboot()
    system = boot(name, hint_port=False)
    announced(system)
    active(system)
    takes_a_port_that_comes_later(system)
    system.shell(PURGE.format("garp-agent"), timeout=BOOT)
    assert "garp" not in system.shell("cat /proc/[0-9]*/comm")
    assert system.shell(FIND_OURS) == ""


def starts_when_installed(system: Booted, package: Path) -> None:
    system.cables["net0"].clear()
    system.shell(INSTALL.format(f"/payload/{package.name}"), timeout=BOOT)
    process = active(system)
    announced(system)
    status = unprivileged(system, process, CAP_NET_RAW)
    group = system.check("getent", "group", "garp").split(":")[2]
    assert status["Gid"].split()[0] == group
    # The service sets it at its start; udev may apply the rule only to ports that appear later.
    assert system.check(*PORT_MODE) == "660 garp\n"
    assert system.check("stat", "-c", "%a %G", "/run/garp-agent/control.sock") == "660 garp\n"
    hinted(system)
    assert HINT_PORT in system.check("garp-agent", "status")


def reloads(system: Booted) -> None:
    process = show(system, "MainPID")
    for interval, event in (("never", "configuration-refused"), ("2s", "configuration-loaded")):
        system.write(CONFIG, f"interval: {interval}\n")
        system.check("systemctl", "reload", "garp-agent")
        wait_for_journal(system, event)
    assert show(system, "MainPID") == process


def wait_for_journal(system: Booted, words: str) -> None:
    journal = ("journalctl", "-u", "garp-agent")
    system.wait_until(lambda: words in system.check(*journal), words)


def is_started_again(system: Booted) -> None:
    """After a kill and a hang, but not with a bad configuration."""
    process = show(system, "MainPID")
    system.shell(f"kill -9 {process}")
    active(system, before=process)
    system.shell(
        "mkdir -p /run/systemd/system/garp-agent.service.d\n"
        "printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/garp-agent.service.d/t.conf\n"
        "systemctl daemon-reload; systemctl restart garp-agent"
    )
    process = show(system, "MainPID")
    system.shell(f"kill -STOP {process}")
    active(system, before=process)
    wait_for_journal(system, "result 'watchdog'")
    system.shell("rm -r /run/systemd/system/garp-agent.service.d; systemctl daemon-reload")

    system.write(CONFIG, "interval: never\n")
    assert system.run("systemctl", "restart", "garp-agent").returncode != 0
    assert show(system, "ActiveState") == "failed"
    assert show(system, "ExecMainStatus") == "78"
    system.write(CONFIG, "interval: 2s\n")
    system.check("systemctl", "start", "garp-agent")


def upgrades(system: Booted, package: Path) -> None:
    process = show(system, "MainPID")
    system.cables["net0"].clear()
    system.shell(INSTALL.format(f"/payload/{package.name}"), timeout=BOOT)
    active(system, before=process)
    announced(system)
    assert system.read(CONFIG) == "interval: 2s\n"
    assert system.check("ls", "/etc/garp-agent") == "conf.d\nconfig.yaml\n"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["booted-bookworm", "booted-trixie"])
def test_each_of_ten_installations_in_a_row_gives_a_port_that_answers_a_hint(
    boot: Callable[..., Booted], debs: dict[str, Path], name: str
) -> None:
    """The udev of trixie may handle the port with the old rules, and does not look again.

    Compiled code is kept from one installation to the next, because compiling takes most of the
    time of an installation here.  dpkg itself, because the packages it needs are there.
    """
    system = boot(name, debs["garp-agent"])
    system.shell("mount --bind /bin/true /usr/bin/py3clean")
    for _ in range(10):
        assert system.check(*PORT_MODE) == "600 root\n"
        system.shell("dpkg --install /payload/garp-agent_*.deb", timeout=BOOT)
        active(system)
        assert system.check(*PORT_MODE) == "660 garp\n"
        hinted(system)
        system.shell("dpkg --remove garp-agent", timeout=BOOT)


def takes_a_port_that_comes_later(system: Booted) -> None:
    """On a controller whose device number the running service may not open."""
    system.qmp("device_add", driver="virtio-serial-pci", id="late", bus="slot0")
    system.plug_port(bus="late.0")

    def is_open() -> bool:
        done = system.run("garp-agent", "status", "--json")
        return done.returncode == 0 and "host" in json.loads(done.stdout)["hint_port"]["state"]

    system.wait_until(is_open, "the port is open", BOOT)
    hinted(system)


def test_rc_local_starts_the_agent_without_systemd(boot: Callable[..., Booted], pyz: Path) -> None:
    files = {
        "/usr/local/sbin/garp-start": CONTRIB / "rc.local" / "garp-start",
        "/etc/rc.local": CONTRIB / "rc.local" / "rc.local",
        "/usr/local/lib/garp-agent/garp-agent.pyz": pyz,
    }
    system = boot("booted-sysv", files=files)
    assert system.check("cat", "/proc/1/comm") == "init\n"
    announced(system)
    assert "running" in system.check("/usr/local/sbin/garp-start", "status")
    hinted(system)


def test_cloud_init_starts_the_agent_of_the_user_data(
    boot: Callable[..., Booted], tmp_path: Path
) -> None:
    seed = {
        "meta-data": "instance-id: test\nlocal-hostname: guest\n",
        "network-config": f"version: 2\nethernets:\n  eth0:\n    addresses: [{ADDRESS}/24]\n",
        "user-data": run(sys.executable, ROOT / "tools" / "cloud_init.py"),
    }
    for name, text in seed.items():
        (tmp_path / name).write_text(text)
    put = {f"/var/lib/cloud/seed/nocloud/{name}": tmp_path / name for name in seed}
    system = boot("booted-cloud", files=put)
    finished = ("test", "-e", "/var/lib/cloud/instance/boot-finished")
    system.wait_until(lambda: system.run(*finished).returncode == 0, "cloud-init ended", 2 * BOOT)
    active(system)
    announced(system)
    assert "/usr/local/sbin/garp-agent" in show(system, "ExecStart")
    assert system.read(CONFIG) == "interval: 5s\n"
    hinted(system)


CHANNEL = "/run/libvirt/qemu/channel/1-guest"
# A guest's end, in a folder of QEMU's user: its number differs between distributions.
LISTENER = f"""
import os, socket
os.makedirs("{CHANNEL}")
server = socket.socket(socket.AF_UNIX)
server.bind("{CHANNEL}/{HINT_PORT}")
for path in ("{CHANNEL}/{HINT_PORT}", "{CHANNEL}", "/run/libvirt/qemu"):
    os.chown(path, 107, 107)
    os.chmod(path, 0o700)
server.listen()
while True:
    client, _ = server.accept()
    with client, client.makefile("rb") as lines:
        for line in lines:
            print(line.lstrip(b"\\xff").decode(), end="", flush=True)
"""
BOND = """
ip link add bond0 type bond mode active-backup miimon 50
for link in one two; do ip link add $link type dummy; ip link set $link master bond0; done
ip link set bond0 up
"""


def test_garp_hint_hints_guests_of_another_user(
    boot: Callable[..., Booted], debs: dict[str, Path]
) -> None:
    system = boot("booted-bookworm", debs["garp-hint"])
    guest = system.spawn("python3", "-c", LISTENER)
    system.shell(INSTALL.format("/payload/garp-hint_*.deb"), timeout=BOOT)
    process = active(system, "garp-hint")
    unprivileged(system, process, CAP_DAC_OVERRIDE)

    def follows(words: str) -> None:
        shown = ("garp-hint", "status")
        system.wait_until(lambda: re.search(words, system.check(*shown)) is not None, words)

    follows("(?m)^guest ")
    system.shell(BOND)
    follows("bond0")
    bursts = guest.output.count('"burst"')
    system.shell("ip link set $(cat /sys/class/net/bond0/bonding/active_slave) down")
    system.wait_until(lambda: guest.output.count('"burst"') > bursts, "the guest's hint")
    system.check("systemctl", "reload", "garp-hint")
    assert show(system, "MainPID", "garp-hint") == process
