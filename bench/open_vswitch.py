"""A hypervisor with Open vSwitch and its own bond, for `make bench-failover`.

Open vSwitch sends a learning frame for each MAC that it knows when its bond fails over
(ofproto/bond.c, bond_send_learning_packets()).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.vm.images import OVS_SCHEMA
from tests.vm.receiver import HangError, wait_for
from tests.vm.testbed import INTERFACES, NO_IPV6, Testbed

SOCKET = "/var/run/openvswitch/db.sock"
FOLDERS = ("/var/run/openvswitch", "/etc/openvswitch", "/var/log/openvswitch")
MAKE_FOLDERS = "import os\nfor path in paths: os.makedirs(path, exist_ok=True)"
DATABASE = "/etc/openvswitch/conf.db"
BRIDGE = """
ovs-vsctl --no-wait init
ovs-vsctl --no-wait add-br br0
ovs-vsctl --no-wait add-bond br0 bond0 eth0 eth1 bond_mode=active-backup \\
    other_config:bond-detect-mode={detect} other_config:bond-miimon-interval={miimon}
ip link set eth0 up
ip link set eth1 up
"""
# Seconds.  A vswitchd started right after a quick boot forwarded nothing: no flow, all members up.
# lib/ovs-thread.c, count_cpu_cores(), likely counts none in the first 10 s, and so no handler runs.
UPTIME = 12.0
SHOWN = (  # with a failure
    ("ovs-appctl", "bond/show", "bond0"),
    ("ovs-appctl", "fdb/show", "br0"),
    ("ovs-appctl", "dpctl/dump-flows"),
    ("ip", "-s", "link"),
    ("cat", "/proc/meminfo"),
)
GUEST_PORT = """
ip link set eth2 name vif1.0
ip link set vif1.0 up
ovs-vsctl add-port br0 vif1.0
"""


class OpenVswitchTestbed(Testbed):
    """The guest is behind Open vSwitch.

    ``detect``: how it learns of a lost carrier: "carrier", its default, by the kernel's messages;
    "miimon" asks every ``miimon`` milliseconds, as the bonding driver does.
    """

    in_hypervisor: ClassVar[dict[str, Any]] = {"extras": True, "memory": 320}

    def __init__(self, *, miimon: int, detect: str) -> None:
        self._detect = detect
        super().__init__(miimon=miimon)

    def configure_bond(self, miimon: int) -> None:
        machine = self.hypervisor
        machine.shell(NO_IPV6)
        machine.insert("openvswitch", "unix_diag")
        machine.python(MAKE_FOLDERS, paths=FOLDERS)
        machine.check("ovsdb-tool", "create", DATABASE, f"/{OVS_SCHEMA}")
        machine.spawn("ovsdb-server", DATABASE, f"--remote=punix:{SOCKET}")
        wait_for(lambda: machine.run("ovs-vsctl", "--no-wait", "show").returncode == 0, "ovsdb")
        machine.shell(BRIDGE.format(detect=self._detect, miimon=miimon))
        wait_for(lambda: float(machine.read("/proc/uptime").split()[0]) > UPTIME, "its first 10 s")
        machine.spawn("/usr/lib/openvswitch-switch/ovs-vswitchd", "--pidfile", f"unix:{SOCKET}")

    def configure_guest_port(self) -> None:
        self.hypervisor.shell(GUEST_PORT)  # waits for ovs-vswitchd

    def guest_sends(self) -> None:
        """As the other testbeds; if no frame arrives, the error has what Open vSwitch says."""
        try:
            super().guest_sends()
        except HangError as error:
            shown = [self._run(*each) for each in SHOWN]
            raise HangError("\n".join([str(error), *shown])) from None

    def _run(self, *command: str) -> str:
        done = self.hypervisor.run(*command, timeout=30.0)
        return f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"

    def is_usable(self, uplink: str) -> bool:
        return f"member {INTERFACES[uplink]}: enabled" in self._bond()

    @property
    def active(self) -> str:
        """The uplink that the bond uses: "a" or "b"."""
        shown = self._bond().split("\n\n")
        parts = [part for part in shown if "active member\n" in f"{part}\n"]
        return next(key for key, name in INTERFACES.items() if f"member {name}:" in parts[-1])

    def _bond(self) -> str:
        return self.hypervisor.check("ovs-appctl", "bond/show", "bond0")
