"""Whom the watcher hints on the running kernel: bridges, and a tap as libvirt makes it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.wire.protocol import Lease
from tests.hypervisor.test_bridge_failovers import run_in
from tests.hypervisor.test_daemon import WITH_CARRIER, bursts, only
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, Watcher, eventually, watching

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
# Two bridges, each with an uplink.  The guests of these tests name the MAC 52:54:00:12:34:56.
TWO_BRIDGES = """
for n in 0 1; do
    ip link add br$n up type bridge && ip link add uplink$n up master br$n type ifb || exit
done
ip tuntap add vnet0 mode tap && exec "$@"
"""
STATUS = """
<domstatus><domain><devices><interface type='bridge'>
<mac address='52:54:00:12:34:56'/><target dev='vnet0' managed='no'/>
</interface></devices></domain></domstatus>
"""
PATH = f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}"
LIST = ("env", PATH, *COMMAND, "list", "--timeout", "20", "--port", "none")
PREFIX = ("unshare", "-mn", "sh", "-c", TWO_BRIDGES, "-")


def fail_over(watcher: Watcher, uplink: str) -> None:
    run_in(watcher, "ip", "link", "set", uplink, "down")
    run_in(watcher, "ip", "link", "set", uplink, "up")


def hinted(watcher: Watcher) -> list[tuple[str, int]]:
    """Return the link and the number of guests of each failover."""
    return [(each["link"], each["guests"]) for each in watcher.ask()["history"]]


def leases(guests: Guests) -> list[Lease]:
    """Return the promises that have reached the first guest."""
    return [each for each in guests.requests(0) if isinstance(each, Lease) and each.seconds]


LEARNT = "bridge fdb add 52:54:00:12:34:56 dev vnet0 master static"


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ("ip link set vnet0 address fe:54:00:12:34:56 master br0", ""),
        (f"ip link set vnet0 master br0 && {LEARNT}", ""),
        ("ip link set vnet0 master br0", STATUS),
    ],
    ids=["libvirt's address", "table", "libvirt's status file"],
)
def test_failover_hints_the_guests_of_its_bridge_only(
    short_path: Path, way: str, text: str
) -> None:
    status = short_path / "status"
    status.mkdir()
    if text:
        (status / "guest0.xml").write_text(text)
    prefix = (*PREFIX[:4], TWO_BRIDGES.replace("exec", f"{way} && exec"), "-")
    guests = Guests(short_path, [Manner.ANSWERS])
    libvirt = ("--libvirt-status", str(status))
    with guests, watching(short_path, *only(short_path), *libvirt, prefix=prefix) as watcher:
        eventually(lambda: watcher.guests()["0-guest0"]["behind"] == ["br0"], "its path is known")
        listed = run_in(watcher, *LIST, *libvirt, "--channel", f"{short_path}/*/{PORT}")
        assert re.search(r"^0-guest0 +answered .* vnet0 br0 +/", listed, re.MULTILINE)
        fail_over(watcher, "uplink1")
        eventually(lambda: hinted(watcher) == [("br1", 0)], "the failover of another bridge")
        fail_over(watcher, "uplink0")
        eventually(lambda: hinted(watcher)[1:] == [("br0", 1)], "the failover of its own bridge")
        eventually(lambda: len(bursts(guests, 0)) >= 2, "the hint")
        assert bursts(guests, 0)[1].reason == "br0 is back on uplink0"


def test_guest_that_comes_to_another_bridge_is_hinted_then(short_path: Path) -> None:
    tap = "ip link set vnet0 up address fe:54:00:12:34:56 master br0"
    prefix = (*PREFIX[:4], TWO_BRIDGES.replace("exec", f"{tap} && exec"), "-")
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *only(short_path), prefix=prefix) as watcher:
        eventually(lambda: watcher.guests()["0-guest0"]["behind"] == ["br0"], "its path is known")
        run_in(watcher, "ip", "link", "set", "vnet0", "master", "br1")
        eventually(lambda: hinted(watcher) == [("br1", 1)], "the move")
        assert watcher.guests()["0-guest0"]["behind"] == ["br1"]
        reason = "links of kind ifb are not followed"
        assert watcher.guests()["0-guest0"]["no_lease"] == f"uplink1: {reason}"


def test_new_bridge_without_guests_is_no_failover(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *only(short_path), prefix=PREFIX) as watcher:
        run_in(watcher, "ip", "link", "add", "br2", "up", "type", "bridge")
        run_in(watcher, "ip", "link", "add", "uplink2", "up", "master", "br2", "type", "ifb")
        followed = {"br0", "br1", "br2"}
        eventually(
            lambda: {link["link"] for link in watcher.ask()["following"]} == followed, "all bridges"
        )
        fail_over(watcher, "uplink0")
        eventually(lambda: hinted(watcher) == [("br0", 1)], "the failover of another bridge")


def test_guest_whose_path_is_not_followed_loses_its_lease_and_the_log_says_why(
    short_path: Path,
) -> None:
    """The watcher follows one bridge, and the guest's port comes to another one."""
    guests = Guests(short_path, [Manner.ANSWERS])
    options = (*only(short_path), "--bond", "br0", "--lease", "3", "--lease-after", "0")
    with guests, watching(short_path, *options, prefix=WITH_CARRIER) as watcher:
        eventually(lambda: watcher.guests()["0-guest0"]["lease"], "the guest has a lease")
        run_in(watcher, "ip", "link", "add", "br1", "up", "type", "bridge")
        run_in(watcher, "ip", "link", "set", "near", "master", "br1")
        reason = "no link of its path is followed"
        eventually(lambda: watcher.guests()["0-guest0"]["no_lease"] == reason, "the reason")
        eventually(lambda: watcher.guests()["0-guest0"]["lease"] == 0, "the lease is taken back")
        granted = len(leases(guests))
        watcher.ask("burst")
        eventually(lambda: len(bursts(guests, 0)) >= 4, "a hint and two repetitions")
        _, log = watcher.stop()
    assert len(leases(guests)) == granted
    assert f'no-lease guest=0-guest0 reason="{reason}"' in log
