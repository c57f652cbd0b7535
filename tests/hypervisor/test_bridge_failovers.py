"""The watcher on a bridge with an uplink that the running kernel takes away and gives back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.guests import Guests, Manner
from garp_agent.wire.protocol import Lease
from tests.hypervisor.test_daemon import bursts, only
from tests.hypervisor.watching import Watcher, eventually, watching

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
# The bridge has the port of a guest, and so it has carrier all the time.  The kernel's module for
# the uplink is one of these: the tests' own kernel may lack VLANs.
UPLINK = """
ip link add near up type veth peer name far && ip link set far up &&
ip link add br0 up type bridge && ip link set near master br0 &&
{ ip link add link far name uplink type vlan id 5 2>&- || ip link add uplink type ifb; } &&
ip link set uplink master br0 && exec "$@"
"""
WITH_UPLINK = ("unshare", "-mn", "sh", "-c", UPLINK, "-")


def run_in(watcher: Watcher, *command: str) -> str:
    """Run a command in the network namespace of the watcher; return what it prints."""
    inside = ["nsenter", f"--net=/proc/{watcher.process.pid}/ns/net", *command]
    return subprocess.run(inside, check=True, stdout=subprocess.PIPE, text=True).stdout


def port_state(watcher: Watcher) -> Any:
    """Return the STP state of the uplink."""
    [port] = json.loads(run_in(watcher, "bridge", "-j", "link", "show", "dev", "uplink"))
    return port["state"]


def test_failover_ends_the_lease_and_is_hinted_and_repeated(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *only(short_path), prefix=WITH_UPLINK) as watcher:
        eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "the first contact")
        run_in(watcher, "ip", "link", "set", "uplink", "up")
        eventually(lambda: len(bursts(guests, 0)) >= 3, "a hint and a repetition")
        _, first, again = bursts(guests, 0)[:3]
        entry = watcher.ask()["history"][-1]
        assert entry["rounds"] >= 2
        assert watcher.guests()["0-guest0"]["lease"] == 0
        assert not [each for each in guests.requests(0) if isinstance(each, Lease) and each.seconds]
    assert first.reason == entry["reason"] == "br0 went from nothing to uplink"
    assert (first.boot, first.rounds, again.rounds) == (again.boot, None, 1)
    assert again.sequence > first.sequence


def test_uplink_that_listens_and_learns_is_hinted_when_it_forwards(short_path: Path) -> None:
    """The shortest forward delay is 2 s, and a port waits for it twice (net/bridge/br_stp.c)."""
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *only(short_path), prefix=WITH_UPLINK) as watcher:
        eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "the first contact")
        stp = ("stp_state", "1", "forward_delay", "200")
        run_in(watcher, "ip", "link", "set", "br0", "type", "bridge", *stp)
        run_in(watcher, "ip", "link", "set", "uplink", "up")
        eventually(lambda: len(bursts(guests, 0)) >= 2, "the hint")
        assert port_state(watcher) == "forwarding"
        reasons = [each.reason for each in bursts(guests, 0)[1:]]
        assert set(reasons) == {"br0 went from nothing to uplink"}
