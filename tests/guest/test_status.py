"""status: the engine's state as plain values."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from garp_agent import __version__
from garp_agent.config.settings import ArpForm, Settings
from garp_agent.guest import status as report
from garp_agent.guest.core.model import (
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    BurstRequested,
    Cause,
    ClaimSeen,
    LeaseGranted,
    Resumed,
    SendOutcome,
)
from garp_agent.guest.io.hint_port import HintPort
from garp_agent.guest.requests import RequestHandler
from garp_agent.wire.model import DumpStarted
from tests.world import NO_CARRIER, RUNNING, Agent, address, dump, link, mac

LO = link(1, "lo", flags=RUNNING | IFF_LOOPBACK, hardware_type=772, hardware_address=bytes(6))
THINGS = (
    LO,
    link(2, "eth0"),
    link(3, "br0", kind="bridge", flags=NO_CARRIER),
    address("127.0.0.1/8", ifindex=1, scope=254),
    address("10.0.0.1/24"),
    address("fd00::1/64", flags=IFA_F_TENTATIVE),
    address("169.254.1.1/16"),
)


def guest(*things: Any, **settings: Any) -> Agent:
    agent = Agent(Settings(interval=10.0, jitter=0.0, **settings))
    agent.tell(*dump(*things))
    agent.wait(2.0)
    return agent


def status(agent: Agent) -> dict[str, Any]:
    found = report.status(agent.engine, agent.now, started=900.0)
    assert json.loads(json.dumps(found)) == found  # plain values only
    return found


def link_status(agent: Agent, name: str = "eth0") -> dict[str, Any]:
    (found,) = (each for each in status(agent)["links"] if each["interface"] == name)
    assert isinstance(found, dict)
    return found


def test_links_list_every_address_with_how_or_why_not() -> None:
    listed: list[Any] = report.links(guest(*THINGS, arp=ArpForm.BOTH).engine.plans.values())
    assert json.loads(json.dumps(listed)) == listed
    keys = ["interface", "ifindex", "kind", "hardware_address", "skipped", "addresses"]
    assert [list(row) for row in listed] == [keys] * 3
    assert [list(row.values())[:5] for row in listed] == [
        ["lo", 1, "loopback", "00:00:00:00:00:00", "loopback"],
        ["eth0", 2, "physical", "02:00:00:00:00:02", None],
        ["br0", 3, "bridge", "02:00:00:00:00:03", "no carrier"],
    ]
    entries = [entry for row in listed for entry in row["addresses"]]
    assert [list(entry) for entry in entries] == [["address", "announced_as", "skipped"]] * 4
    assert [list(entry.values()) for entry in entries] == [
        ["127.0.0.1", [], "loopback"],
        ["10.0.0.1", ["arp-request", "arp-reply"], None],
        ["fd00::1", [], "tentative"],
        ["169.254.1.1", [], "link-local IPv4"],
    ]
    assert [len(row["addresses"]) for row in listed] == [1, 3, 0]


def test_a_link_announced_by_its_hardware_address_alone_has_one_entry_without_address() -> None:
    (found,) = report.links(guest(link(2), mac_only=True).engine.plans.values())
    assert found["addresses"] == [{"address": None, "announced_as": ["rarp"], "skipped": None}]


def test_status_counts_frames_events_and_resumes() -> None:
    agent = guest(*THINGS)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)), DumpStarted(True), Resumed(9.0))
    agent.outcome = (SendOutcome.DROPPED, errno.ENOBUFS)
    agent.wait(0.65)
    found = status(agent)
    del found["links"]
    assert found == {
        "version": __version__,
        "pid": os.getpid(),
        "uptime": 102.65,
        "interval": 10.0,
        "lease": None,
        "frames": {
            "sent": 7,
            "dropped": {"ENOBUFS": 3},
            "by_cause": {"start": 4, "refresh": 2, "resume": 1},
        },
        "overruns": 1,
        "resumes": 1,
        "conflicts": 0,
        "answer_for_everything": [],
    }


def test_a_link_has_its_burst_its_refresh_and_counters_of_its_addresses() -> None:
    agent = guest(*THINGS)
    agent.outcome = (SendOutcome.DROPPED, errno.ENETDOWN)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    agent.wait(0.25)
    found = link_status(agent)
    assert found["last_burst"] == {"cause": "hint", "seconds_ago": 0.25, "over": True}
    assert 0 < found["next_refresh"] <= 10.0
    assert found["held"] == 0
    assert found["addresses"][0] == {
        "address": "10.0.0.1",
        "announced_as": ["arp-request"],
        "skipped": None,
        "conflict": None,
        "sent": 6,  # the refresh began with a probe
        "dropped": {"ENETDOWN": 1},
        "last_cause": "refresh",
        "seconds_since_last": 0.406,
    }
    assert set(found["addresses"][1]) == {"address", "announced_as", "skipped"}


def test_a_link_that_is_not_announced_has_no_refresh_and_no_burst() -> None:
    found = link_status(guest(*THINGS), "br0")
    assert (found["next_refresh"], found["last_burst"], found["held"]) == (None, None, 0)


def test_a_burst_is_over_after_its_last_round() -> None:
    agent = guest(*THINGS)
    agent.tell(BurstRequested(Cause.HINT, (0.0, 0.1)))
    assert link_status(agent)["last_burst"]["over"] is False
    agent.wait(0.1)
    assert link_status(agent)["last_burst"]["over"] is True


def test_an_address_that_was_never_sent_has_no_last_cause() -> None:
    agent = Agent(Settings())
    agent.outcome = (SendOutcome.DROPPED, 9999)
    agent.tell(*dump(link(2, "eth0"), address("10.0.0.1/24")))
    (entry,) = link_status(agent)["addresses"]
    assert (entry["sent"], entry["last_cause"], entry["seconds_since_last"]) == (0, None, None)
    assert entry["dropped"] == {"9999": 1}


def test_frames_that_the_bucket_holds_back_are_counted() -> None:
    agent = guest(link(2, "eth0"), *[address(f"10.0.0.{n}/24") for n in range(1, 20)])
    assert link_status(agent)["held"] > 0


def test_a_rival_is_named_at_its_address() -> None:
    agent = guest(*THINGS)
    agent.tell(ClaimSeen("eth0", address("10.0.0.1/24").address, mac("02:00:00:00:00:66")))
    agent.wait(0.25)
    assert link_status(agent)["addresses"][0]["conflict"] == {
        "claimed_by": "02:00:00:00:00:66",
        "claims": 1,
        "seconds_ago": 0.25,
        "withheld": True,
    }
    assert status(agent)["conflicts"] == 1


def test_a_lease_has_seconds_left_and_never_fewer_than_none() -> None:
    agent = guest(*THINGS)
    agent.tell(LeaseGranted(30.0))
    agent.wait(5.0)
    assert (status(agent)["lease"], status(agent)["interval"]) == (25.0, 60.0)
    # A request can be answered when something is due and not yet done.
    late: dict[str, Any] = report.status(agent.engine, agent.now + 99.5, started=900.0)
    assert late["lease"] == 0.0
    assert [each["next_refresh"] for each in late["links"]] == [None, 0.0, None]


def test_asking_for_the_status_changes_nothing() -> None:
    agent, other = guest(*THINGS), guest(*THINGS)
    for _ in range(5):
        status(agent)
    assert agent.wait(100.0) == other.wait(100.0)


def test_the_hint_port_has_its_state_and_its_requests() -> None:
    port, off = HintPort("/does/not/exist"), HintPort("")
    port.attempt(0.0)
    handler = RequestHandler(guest().engine, Cause.HINT, lambda now: {})
    handler.requests, handler.errors, handler.last_request = 3, 2, 1.5
    keys = ["name", "path", "state", "error", "requests", "errors", "seconds_since_last"]
    missing = ["/does/not/exist"] * 2 + ["absent", "No such file or directory", 3, 2, 3.5]
    assert report.port_status(port, handler, 5.0) == dict(zip(keys, missing))
    disabled = [None, None, "off", None, 0, 0, None]
    assert report.port_status(off, None, 5.0) == dict(zip(keys, disabled))
    port.close()
    off.close()


def test_a_burst_that_begins_with_a_check_is_over_after_the_announcements() -> None:
    agent = Agent(Settings(interval=10.0, burst=(0.0,)))
    agent.tell(*dump(link(2, "eth0"), address("10.0.0.1/24")))
    agent.wait(0.4)
    assert link_status(agent)["last_burst"]["over"] is False
    agent.wait(0.2)
    assert link_status(agent)["last_burst"]["over"] is True
