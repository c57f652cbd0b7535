"""The watcher's link table, fed by the running kernel; tests/runtime/test_netlink.py has more."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import lab
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import DumpComplete, DumpStarted
from tests.hypervisor.watching import ENVIRONMENT, Watcher, eventually

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkMessage

PATIENCE = 30.0
CHANGES = 200
# Prints a line for each turn that has only messages about links to read; at the end, whether it
# looks for garbage in all that it has loaded.
COUNTED = """
import gc, sys
from garp_agent.hypervisor import __main__, daemon
turn = daemon.WatcherDaemon._turn
def counted(self, ready, now):
    if ready == {self._links.fileno()}:
        print("turn", flush=True)
    turn(self, ready, now)
daemon.WatcherDaemon._turn = counted
sys.argv[0] = "garp-hint"
try:
    __main__.main()
finally:
    print("frozen" if gc.get_freeze_count() > 10000 else "all")
"""


class Listener:
    """A table that is kept up to date."""

    def __init__(self, where: lab.TinyLab) -> None:
        with lab.entered(where.namespace("guest")):
            self._netlink: Netlink[LinkMessage] = Netlink(300.0, LINKS)
        self.table = LinkTable()
        self.events: list[Any] = self._netlink.reconcile(0.0)
        self.table.apply(DumpStarted())
        self.close = self._netlink.close

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert select.select([self._netlink], [], [], PATIENCE)[0], "no message came"
            events = self._netlink.read(0.0)
            self.events += events
            for event in events:
                self.table.apply(event)

    def links(self) -> dict[str, bool]:
        """Return whether each link has carrier, by name."""
        return {link.name: link.has_carrier for link in self.table.links.values()}

    def has_recovered(self) -> bool:
        """Return whether a dump has ended that an overrun made necessary."""
        return DumpComplete() in dropwhile(lambda each: each != DumpStarted(True), self.events)


def test_table_follows_the_kernel_through_changes_and_overruns(tiny_lab: lab.TinyLab) -> None:
    with closing(Listener(tiny_lab)) as listener, closing(Listener(tiny_lab)) as late:
        listener.until(lambda: listener.links() == {"eth0": True, "lo": True})
        tiny_lab.ip("guest", "link add br0 type bridge", "link set eth0 master br0")
        listener.until(lambda: any(link.kind == "bridge" for link in listener.table.links.values()))
        [bridge] = [link for link in listener.table.links.values() if link.kind == "bridge"]
        listener.until(lambda: [each.name for each in listener.table.ports(bridge.ifindex)] != [])
        tiny_lab.ip("peer", "link set eth0 down")
        listener.until(lambda: not listener.links()["eth0"])
        # More messages than a socket's buffer takes, and behind them changes that are lost.
        tiny_lab.ip("guest", *(f"link set lo mtu {1400 + n % 2}" for n in range(4000)))
        tiny_lab.ip("guest", "link delete br0", "link add br1 type bridge")
        tiny_lab.ip("peer", "link set eth0 up")
        for each in (listener, late):  # for the second one, the overrun hits the first dump
            each.until(each.has_recovered)
            assert each.links() == {"eth0": True, "lo": True, "br1": False}
        assert listener.table.links == late.table.links


def test_messages_that_concern_no_guest_cause_no_turn(
    tiny_lab: lab.TinyLab, tmp_path: Path
) -> None:
    """Counted, not timed.  A few turns are due at the same moment as a message.

    Once ready, the watcher does not look for garbage in what it has loaded.
    """
    path = str(tmp_path / "status.sock")
    options = ("--status-socket", path, "--discover", "3600", "--port", "org.garp_agent.none")
    command = [sys.executable, "-c", COUNTED, "watch", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = tiny_lab.start("guest", command, env=ENVIRONMENT, **pipes)
    watcher = Watcher(process, path)
    eventually(watcher.is_ready, "it is ready")
    for change in range(CHANGES):
        tiny_lab.ip("guest", f"link set lo mtu {1400 + change % 2}")
    tiny_lab.ip("guest", "link add last type bridge")
    eventually(lambda: "last" in watcher.ask()["looked_at"], "it has read all messages")
    process.terminate()
    output = process.communicate(timeout=PATIENCE)[0]
    assert output.count("turn") < CHANGES / 10
    assert output.split()[-1] == "frozen"
