"""``garp-hint`` and a guest that a real libvirtd runs, with the channel as documented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm import libvirt
from tests.vm.agent import Agent
from tests.vm.libvirt import NAME, Libvirt, LibvirtGuest
from tests.vm.pump import PUMP

GARP_HINT = ("python3", "-m", "garp_agent.hypervisor")
ADDRESS = "192.0.2.1"
NEW_NAME = "renamed"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirt]:
    """libvirtd with one guest defined, which is not running."""
    if reason := libvirt.missing():
        pytest.skip(reason)
    started = Libvirt().ready()
    started.define(NAME)
    yield started
    started.stop()


def start(daemon: Libvirt, name: str) -> tuple[LibvirtGuest, Agent]:
    """The guest, running, with an address and the agent in it."""
    daemon.check("start", name)
    guest = LibvirtGuest(daemon, name, NAME)
    guest.shell("insmod /modules/dummy.ko numdummies=0")
    guest.ip(f"link add net0 type dummy\nlink set net0 arp on up\naddr add {ADDRESS}/24 dev net0")
    return guest, Agent(guest).ready()


def listed(daemon: Libvirt) -> dict[str, Any]:
    """What ``garp-hint list`` says: the state of each guest by its name."""
    done = daemon.run(*GARP_HINT, "list", "--json")
    return {guest["guest"]: guest["state"] for guest in json.loads(done.stdout)}


def hint(daemon: Libvirt, name: str, agent: Agent) -> None:
    """``garp-hint send`` reaches this guest, whose agent announces."""
    before = agent.status()["frames"]["sent"]
    done = daemon.run(*GARP_HINT, "send", "--guest", name)
    assert done.returncode == 0, (done.stdout, done.stderr)
    agent.wait_until(lambda status: status["frames"]["sent"] > before, "the burst")


def test_a_guest_that_does_not_run_is_not_listed(daemon: Libvirt) -> None:
    assert listed(daemon) == {}
    assert daemon.run(*GARP_HINT, "send", "--all").returncode == 3


def test_start_stop_and_rename(daemon: Libvirt) -> None:
    guest, agent = start(daemon, NAME)
    assert listed(daemon) == {NAME: "answered"}  # though libvirt cuts it in the socket's path
    hint(daemon, NAME, agent)

    daemon.check("destroy", NAME)
    guest.let_go()
    assert listed(daemon) == {}
    daemon.check("domrename", NAME, NEW_NAME)
    guest, agent = start(daemon, NEW_NAME)
    assert listed(daemon) == {NEW_NAME: "answered"}
    hint(daemon, NEW_NAME, agent)

    daemon.check("destroy", NEW_NAME)
    guest.let_go()
    daemon.check("domrename", NEW_NAME, NAME)


def test_save_and_restore_under_a_watcher(daemon: Libvirt) -> None:
    guest, agent = start(daemon, NAME)
    watcher = daemon.spawn(*GARP_HINT, "watch", "--discover", "0.2")
    try:
        PUMP.wait_for(lambda: guests(daemon) == {NAME}, "the watcher's guest", step=0.2)
        hinted(daemon, agent)
        daemon.check("save", NAME, "/tmp/saved")
        guest.let_go()
        PUMP.wait_for(lambda: guests(daemon) == set(), "its going", step=0.2)
        daemon.check("restore", "/tmp/saved")
        PUMP.wait_for(lambda: guests(daemon) == {NAME}, "its return", step=0.2)
        hinted(daemon, agent)
    finally:
        daemon.kill(watcher)
        daemon.check("destroy", NAME)
        guest.let_go()


def guests(daemon: Libvirt) -> set[str]:
    """The watcher's guests that answer."""
    done = daemon.run(*GARP_HINT, "status", "--json")
    if done.returncode:
        return {"the watcher does not answer yet"}
    found = json.loads(done.stdout)["guests"]
    return {guest["guest"] for guest in found if guest["state"] == "answered"}


def hinted(daemon: Libvirt, agent: Agent) -> None:
    """The watcher, told to, hints the guest."""
    before = agent.status()["frames"]["by_cause"].get("hint", 0)
    socket = "/run/garp-hint/status.sock"
    source = f"from garp_agent import client; client.ask('{socket}', 'burst')"
    assert daemon.run("python3", "-c", source).returncode == 0
    agent.wait_until(
        lambda status: status["frames"]["by_cause"].get("hint", 0) > before, "the burst"
    )
