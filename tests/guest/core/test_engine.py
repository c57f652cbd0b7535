"""engine: from what happens to what is sent and when, at literal times."""

from __future__ import annotations

import errno
import sys
from math import inf
from typing import Any

import pytest

from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    Bucket,
    InterfaceSelection,
    Settings,
)
from garp_agent.guest.core.model import (
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    AddressGone,
    AddressSeen,
    Announcement,
    BurstRequested,
    Cause,
    ClaimSeen,
    ForwardingSeen,
    HintPortClosed,
    Kind,
    LeaseGranted,
    LinkSeen,
    Resumed,
    SendOutcome,
)
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_INFO,
    LEVEL_WARNING,
    DumpComplete,
    DumpStarted,
    LinkGone,
)
from garp_agent.wire.notices import NOTICES_KEPT
from tests.world import (
    DOWN,
    NO_CARRIER,
    RUNNING,
    Agent,
    Frame,
    TokenBucket,
    address,
    addresses,
    causes,
    dump,
    link,
    mac,
    seen,
    times,
)

ETH = link(2, "eth0")
A = address("10.0.0.1/24")
B = address("10.0.0.2/24")
V6 = address("fd00::1/64")
QUIET = Settings(interval=270.0, interval_with_lease=270.0, jitter=0.0)  # only bursts show


def guest(*things: Any, settings: Settings = QUIET, **more: Any) -> Agent:
    """An agent that has seen all this, and whose start burst is over."""
    agent = Agent(settings, **more)
    agent.tell(*dump(*things))
    agent.wait(1.0)
    agent.notices()
    return agent


def burst_of(frames: list[Frame], agent: Agent, since: float, cause: Cause) -> bool:
    """Whether the frames are one burst as configured, and nothing else."""
    assert causes(frames) == [cause.value]
    return times(frames, since) == list(agent.engine.settings.burst)


# -- the start ----------------------------------------------------------------------


def test_nothing_is_sent_before_everything_is_known() -> None:
    agent = Agent()
    assert agent.tell(DumpStarted(), *seen(ETH, A)) == []
    assert agent.engine.deadline() == inf
    assert agent.wait(100.0) == []
    assert addresses(agent.tell(DumpComplete())) == [A.address]


def test_every_address_of_every_suitable_link_is_announced_at_the_start() -> None:
    other = address("10.0.1.1/24", ifindex=3)
    lo = link(1, "lo", flags=RUNNING | IFF_LOOPBACK)
    agent = Agent(QUIET)
    start = agent.now
    events = dump(lo, ETH, link(3), address("127.0.0.1/8", ifindex=1), A, V6, other)
    frames = agent.tell(*events) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.START)
    sent = {(f.announcement.ifindex, f.announcement.address) for f in frames}
    assert sent == {(2, A.address), (2, V6.address), (3, other.address)}
    assert len(frames) == 9


def test_what_is_sent_says_everything_that_the_frame_needs() -> None:
    agent = Agent(QUIET)
    frames = agent.tell(*dump(ETH, A, V6, ForwardingSeen(2, True)))
    assert [frame.announcement for frame in frames] == [
        Announcement(2, Kind.ARP_REQUEST, ETH.hardware_address, A.address, Cause.START),
        Announcement(
            2, Kind.UNSOLICITED_NA, ETH.hardware_address, V6.address, Cause.START, router=True
        ),
    ]


def test_an_address_of_two_forms_is_two_frames_and_two_tokens() -> None:
    agent = Agent(QUIET._replace(arp=ArpForm.BOTH, bucket=Bucket(1.0, 3), burst=(0.0,)))
    frames = agent.tell(*dump(ETH, A, B)) + agent.wait(10.0)
    assert [(f.at - 1000.0, f.announcement.kind.value, f.announcement.address) for f in frames] == [
        (0.0, "arp-request", A.address),
        (0.0, "arp-reply", A.address),
        (1.0, "arp-request", B.address),
        (1.0, "arp-reply", B.address),
    ]


def test_the_first_frames_are_one_for_each_link() -> None:
    links = [link(ifindex) for ifindex in (2, 3, 4)]
    items = [address(f"10.0.{i}.{n}/24", ifindex=i) for i in (2, 3, 4) for n in (1, 2, 3)]
    frames = Agent(QUIET).tell(*dump(*links, *items))
    assert sorted(frame.announcement.ifindex for frame in frames[:3]) == [2, 3, 4]
    assert len(frames) == 9


def test_a_hint_before_the_first_dump_is_no_error_and_loses_nothing() -> None:
    agent = Agent(QUIET)
    assert agent.tell(BurstRequested(Cause.HINT), LeaseGranted(5.0), Resumed(1.0)) == []
    assert addresses(agent.tell(*dump(ETH, A))) == [A.address]


def test_a_hint_during_the_first_dump_does_not_look_at_half_of_it() -> None:
    agent = Agent(QUIET)
    agent.tell(DumpStarted(), *seen(ETH, A), BurstRequested(Cause.HINT))
    frames = agent.tell(*seen(B), DumpComplete()) + agent.wait(5.0)
    assert causes(frames) == ["start"]
    assert set(addresses(frames)) == {A.address, B.address}


# -- the timer ----------------------------------------------------------------------


def test_by_default_an_address_is_announced_every_four_to_six_seconds() -> None:
    agent = guest(ETH, A, settings=Settings())
    at = [agent.now - 1.0, *times(agent.wait(3600.0))]
    assert causes(agent.wait(60.0)) == ["refresh"]
    gaps = [later - earlier for earlier, later in zip(at[1:], at[2:])]
    assert min(gaps) >= 4.0 - 1e-6
    assert max(gaps) <= 6.0 + 1e-6


def test_a_link_with_200_addresses_costs_no_more_than_one_with_4() -> None:
    many = [address(f"10.0.{n}.1/24") for n in range(200)]
    few, crowd = guest(ETH, *many[:4]), Agent(Settings())
    few = Agent(Settings())
    few.tell(*dump(ETH, *many[:4]))
    crowd.tell(*dump(ETH, *many))
    for agent in (few, crowd):
        agent.wait(120.0)  # the burst of 200 takes its time at 10 a second
    cost_of_few, cost_of_crowd = few.wait(3600.0), crowd.wait(3600.0)
    assert len(cost_of_crowd) == pytest.approx(len(cost_of_few), rel=0.05)
    assert set(addresses(cost_of_crowd)) == {item.address for item in many}


def test_nobody_is_woken_but_for_a_tick() -> None:
    agent = guest(ETH, A, settings=Settings(interval=5.0, jitter=0.0))
    before = agent.wakeups
    agent.wait(5000.0)
    assert agent.wakeups - before == 1000


def test_an_agent_with_nothing_to_announce_sleeps_for_ever() -> None:
    agent = guest(link(1, "lo", flags=RUNNING | IFF_LOOPBACK), link(2, flags=DOWN))
    assert agent.engine.deadline() == inf


# -- bursts: what the kernel tells --------------------------------------------------

UP_AGAIN = (LinkSeen(ETH._replace(flags=NO_CARRIER)), LinkSeen(ETH))
NEW_MAC = ETH._replace(hardware_address=mac("02:00:00:00:00:99"))


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        pytest.param(UP_AGAIN, Cause.LINK_UP, id="carrier back, both told at once"),
        pytest.param([LinkSeen(NEW_MAC)], Cause.HARDWARE_ADDRESS_CHANGED, id="another MAC"),
        pytest.param([LinkSeen(ETH, True)], Cause.NOTIFY_PEERS, id="NOTIFY_PEERS"),
        pytest.param([BurstRequested(Cause.OPERATOR)], Cause.OPERATOR, id="operator"),
        pytest.param([BurstRequested(Cause.HINT)], Cause.HINT, id="hint"),
        pytest.param([Resumed(60.0)], Cause.RESUME, id="resume"),
        pytest.param([*UP_AGAIN, LinkSeen(ETH, True)], Cause.NOTIFY_PEERS, id="the last counts"),
    ],
)
def test_what_starts_a_burst_of_all_addresses(events: list[Any], cause: Cause) -> None:
    agent = guest(ETH, A, V6)
    start = agent.now
    frames = agent.tell(*events) + agent.wait(5.0)
    assert burst_of(frames, agent, start, cause)
    assert len(frames) == 6
    assert set(addresses(frames)) == {A.address, V6.address}


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(LinkSeen(ETH), id="the same link again"),
        pytest.param(LinkSeen(ETH._replace(name="lan0")), id="a rename"),
        pytest.param(LinkSeen(ETH._replace(operational_state=6)), id="operational state"),
        pytest.param(LinkSeen(ETH._replace(flags=RUNNING | 0x100)), id="promiscuous"),
        pytest.param(LinkSeen(link(3)), id="another link without addresses"),
        pytest.param(AddressGone(B), id="an address removed"),
        pytest.param(AddressGone(address("10.9.9.9/8")), id="an unknown address removed"),
        pytest.param(LinkGone(9), id="an unknown link removed"),
        pytest.param(DumpStarted(True), id="an overrun"),
    ],
)
def test_what_starts_none(event: Any) -> None:
    agent = guest(ETH, A, B)
    last = agent.engine.schedule.last_burst(2)
    assert agent.tell(event) + agent.wait(5.0) == []
    assert agent.engine.schedule.last_burst(2) == last


def test_a_link_that_appears_bursts_as_link_up() -> None:
    agent = guest(ETH, A)
    start = agent.now
    item = address("10.0.3.1/24", ifindex=3)
    frames = agent.see(link(3), item) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.LINK_UP)
    assert set(addresses(frames)) == {item.address}


def test_a_new_address_bursts_alone() -> None:
    agent = guest(ETH, A)
    start = agent.now
    frames = agent.see(B) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.ADDRESS_ADDED)
    assert set(addresses(frames)) == {B.address}


@pytest.mark.parametrize("before", [[ETH], [ETH, V6._replace(flags=IFA_F_TENTATIVE)]])
def test_the_first_address_of_a_link_that_is_up_is_an_address_added(before: list[Any]) -> None:
    agent = guest(*before)
    start = agent.now
    frames = agent.see(A) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.ADDRESS_ADDED)


def test_a_link_that_leaves_its_bridge_bursts_as_link_up() -> None:
    agent = guest(link(2, "eth0", master_ifindex=5, port_kind="bridge"), A)
    assert causes(agent.see(ETH) + agent.wait(5.0)) == ["link-up"]


def test_a_link_that_appears_and_gets_its_address_later_bursts_when_it_does() -> None:
    agent = guest(ETH, A)
    agent.see(link(3, flags=NO_CARRIER), address("10.0.3.1/24", ifindex=3))
    assert causes(agent.see(link(3)) + agent.wait(5.0)) == ["link-up"]


def test_an_ipv6_address_is_announced_when_it_leaves_tentative() -> None:
    agent = guest(ETH, A)
    assert agent.see(V6._replace(flags=IFA_F_TENTATIVE)) + agent.wait(2.0) == []
    start = agent.now
    frames = agent.see(V6) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.ADDRESS_ADDED)


def test_an_optimistic_address_is_announced_without_override_and_again_with_it() -> None:
    agent = guest(ETH, A)
    early = agent.see(V6._replace(flags=IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)) + agent.wait(1.0)
    late = agent.see(V6) + agent.wait(1.0)
    assert [f.announcement.override for f in early] == [False] * 3
    assert [f.announcement.override for f in late] == [True] * 3
    assert causes(early + late) == ["address-added"]


def test_a_link_that_becomes_a_router_says_so_at_once() -> None:
    agent = guest(ETH, A, V6)
    frames = agent.tell(ForwardingSeen(2, True)) + agent.wait(1.0)
    assert [f.announcement.router for f in frames] == [True] * 3
    assert set(addresses(frames)) == {V6.address}


def test_a_link_recreated_under_another_index_is_announced_there_only() -> None:
    agent = guest(ETH, A)
    again = link(7, "eth0", hardware_address=mac("02:00:00:00:00:77"))
    frames = agent.tell(LinkGone(2), *seen(again, A._replace(ifindex=7))) + agent.wait(600.0)
    assert {f.announcement.ifindex for f in frames} == {7}
    assert {f.announcement.hardware_address for f in frames} == {again.hardware_address}


def test_a_mac_changed_in_mid_burst_is_the_one_in_every_frame_from_then_on() -> None:
    agent = guest(ETH, A)
    agent.tell(LinkSeen(ETH, True))
    agent.wait(0.05)
    frames = agent.see(NEW_MAC) + agent.wait(600.0)
    assert {f.announcement.hardware_address for f in frames} == {NEW_MAC.hardware_address}
    assert times(frames, frames[0].at)[:3] == [0.0, 0.1, 0.4]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([AddressGone(A)], id="removed"),
        pytest.param([LinkGone(2)], id="its link deleted"),
        pytest.param([LinkSeen(ETH._replace(flags=DOWN))], id="its link set down"),
        pytest.param([LinkSeen(ETH._replace(flags=NO_CARRIER))], id="carrier lost"),
        pytest.param(
            [LinkSeen(ETH._replace(master_ifindex=9, port_kind="bridge"))], id="put into a bridge"
        ),
        pytest.param(dump(ETH), id="missing in a dump"),
        pytest.param(dump(), id="its link missing in a dump"),
    ],
)
@pytest.mark.parametrize("meanwhile", [0.0, 0.05, 0.15, 3.0])
def test_an_address_that_went_is_never_announced_again(events: list[Any], meanwhile: float) -> None:
    agent = guest(ETH, A, settings=Settings())
    agent.tell(LinkSeen(ETH, True))
    agent.wait(meanwhile)
    assert agent.tell(*events) + agent.wait(600.0) == []
    assert agent.tell(BurstRequested(Cause.HINT)) + agent.wait(600.0) == []


def test_an_address_that_went_while_it_waited_for_its_token_is_not_announced() -> None:
    many = [address(f"10.0.{n}.1/24") for n in range(40)]
    agent = guest(ETH, settings=QUIET)
    sent = addresses(agent.see(*many))
    waiting = [item for item in many if item.address not in sent]
    assert len(waiting) == 28
    frames = agent.tell(*map(AddressGone, waiting)) + agent.wait(600.0)
    assert not set(addresses(frames)) & {item.address for item in waiting}


def test_an_address_there_twice_goes_with_its_last_one() -> None:
    narrow = address("10.0.0.1/25")
    agent = guest(ETH, A, narrow, settings=Settings())
    agent.tell(AddressGone(A))
    assert set(addresses(agent.wait(20.0))) == {A.address}
    assert agent.tell(AddressGone(narrow)) + agent.wait(20.0) == []


def test_an_overrun_changes_nothing_until_the_dump_is_whole() -> None:
    agent = guest(ETH, A, B, settings=Settings())
    agent.tell(DumpStarted(True), *seen(ETH, A))
    assert set(addresses(agent.wait(20.0))) == {A.address, B.address}
    agent.tell(DumpComplete())
    assert set(addresses(agent.wait(20.0))) == {A.address}
    assert agent.engine.overruns == 1


def test_what_was_added_while_events_were_lost_is_announced_once_the_dump_tells_it() -> None:
    agent = guest(ETH, A)
    start = agent.now
    frames = agent.tell(*dump(ETH, A, B, overrun=True)) + agent.wait(5.0)
    assert burst_of(frames, agent, start, Cause.ADDRESS_ADDED)
    assert set(addresses(frames)) == {B.address}


# -- bursts: what is stacked --------------------------------------------------------

PORT = link(2, "eth0", master_ifindex=5, port_kind="bridge")
BRIDGE = link(5, "br0", kind="bridge")
VLAN = link(6, "br0.7", kind="vlan", parent_ifindex=5)
ON_BRIDGE = address("10.0.5.1/24", ifindex=5)
ON_VLAN = address("10.0.6.1/24", ifindex=6)


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([LinkSeen(PORT, True)], "notify-peers"),
        ([LinkSeen(PORT._replace(flags=NO_CARRIER)), LinkSeen(PORT)], "link-up"),
    ],
)
def test_what_happens_to_a_port_bursts_what_is_stacked_on_it(events: list[Any], cause: str) -> None:
    other = address("10.0.8.1/24", ifindex=8)
    agent = guest(PORT, BRIDGE, VLAN, link(8), ON_BRIDGE, ON_VLAN, other)
    frames = agent.tell(*events) + agent.wait(5.0)
    assert set(addresses(frames)) == {ON_BRIDGE.address, ON_VLAN.address}
    assert causes(frames) == [cause]
    assert len(frames) == 6


def test_a_port_that_changes_and_still_has_no_carrier_is_no_cause() -> None:
    dead = PORT._replace(flags=NO_CARRIER)
    agent = guest(dead, BRIDGE, ON_BRIDGE)
    assert agent.see(dead._replace(name="lan0"), dead._replace(flags=DOWN), dead) == []


def test_the_event_that_says_what_is_stacked_is_heeded_itself() -> None:
    # Put into the bridge and carrier back in one event; or the first event after a lost one.
    agent = guest(link(2, "eth0", flags=NO_CARRIER), BRIDGE, ON_BRIDGE)
    assert causes(agent.tell(LinkSeen(PORT)) + agent.wait(5.0)) == ["link-up"]
    agent = guest(BRIDGE, ON_BRIDGE)
    assert causes(agent.tell(LinkSeen(PORT, True)) + agent.wait(5.0)) == ["notify-peers"]


def test_links_stacked_in_a_circle_are_no_trap() -> None:
    one = link(2, parent_ifindex=3)
    two = link(3, parent_ifindex=2)
    agent = guest(one, two, A)
    assert addresses(agent.tell(LinkSeen(two, True))) == [A.address]


# -- coalescing and the bucket ------------------------------------------------------


def test_triggers_in_mid_burst_start_it_anew() -> None:
    agent = guest(ETH, A)
    start = agent.now
    frames = agent.tell(LinkSeen(ETH, True)) + agent.wait(0.2)
    frames += agent.tell(BurstRequested(Cause.HINT)) + agent.wait(5.0)
    assert times(frames, start) == [0.0, 0.1, 0.2, 0.3, 0.6]
    assert causes(frames) == ["notify-peers", "hint"]


def test_all_that_happens_in_one_turn_is_one_burst() -> None:
    agent = guest(ETH, A)
    start = agent.now
    events = [LinkSeen(ETH, True), *UP_AGAIN, LinkSeen(NEW_MAC), Resumed(9.0)] * 50
    frames = agent.tell(*events) + agent.wait(5.0)
    assert times(frames, start) == [0.0, 0.1, 0.4]
    assert len(frames) == 3


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([BurstRequested(Cause.HINT)], id="hints"),
        pytest.param([LinkSeen(ETH, True)], id="NOTIFY_PEERS"),
        pytest.param(UP_AGAIN, id="a flapping carrier, seen too late"),
        pytest.param([Resumed(1.0)], id="resumes"),
        pytest.param([LeaseGranted(5.0), LeaseGranted(0.0)], id="a lease given and taken"),
    ],
)
def test_a_flood_of_triggers_stays_within_the_bucket(events: list[Any]) -> None:
    agent = guest(ETH, *[address(f"10.0.{n}.1/24") for n in range(12)], settings=Settings())
    bucket = TokenBucket(rate=10.0, depth=12)
    agent.wait(20.0)
    for _ in range(1000):
        for frame in agent.tell(*events) + agent.wait(0.01):
            bucket.take(frame.at)


def test_a_flapping_carrier_does_not_pass_the_bucket_by() -> None:
    agent = guest(ETH, *[address(f"10.0.{n}.1/24") for n in range(12)])
    bucket = TokenBucket(rate=10.0, depth=12)
    agent.wait(20.0)
    for _ in range(500):
        frames = agent.see(ETH._replace(flags=NO_CARRIER))
        frames += agent.wait(0.005) + agent.see(ETH) + agent.wait(0.005)
        for frame in frames:
            bucket.take(frame.at)


# -- being stopped ------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [11.0, 30.0, 3600.0, 86400.0 * 365])
def test_after_being_stopped_there_is_one_burst_and_no_flood(seconds: float) -> None:
    agent = guest(ETH, A, B, settings=Settings(interval=5.0, jitter=0.0))
    agent.wait(10.0)
    frames = agent.stop(seconds)
    start = agent.now
    frames += agent.wait(1.0)
    assert [f for f in times(frames, start) if f < 0.5] == [0.0, 0.1, 0.4]
    assert causes(frames)[0] == "resume"
    assert len(frames) <= 8
    assert agent.engine.resumes == 1
    assert "resumed" in agent.notices()


@pytest.mark.parametrize("pending", [1, 40])
def test_a_resume_in_mid_burst_is_one_resume(pending: int) -> None:
    agent = guest(ETH, *[address(f"10.0.{n}.1/24") for n in range(pending)], settings=Settings())
    agent.tell(LinkSeen(ETH, True))
    agent.notices()
    agent.stop(3600.0, Resumed(3600.0))
    assert agent.engine.resumes == 1
    assert agent.notices().count("resumed") == 1
    agent.wait(600.0)
    assert agent.engine.resumes == 1


def test_a_resume_of_which_nobody_told_is_one_resume() -> None:
    agent = guest(ETH, *[address(f"10.0.{n}.1/24") for n in range(40)], settings=Settings())
    agent.tell(LinkSeen(ETH, True))
    agent.stop(3600.0)
    agent.wait(600.0)
    assert agent.engine.resumes == 1


def test_a_late_turn_of_less_than_an_interval_is_an_ordinary_tick() -> None:
    agent = guest(ETH, A, settings=Settings(interval=5.0, jitter=0.0))
    agent.until(agent.engine.deadline())
    frames = agent.stop(9.9)
    assert causes(frames) == ["refresh"]
    assert agent.engine.resumes == 0


def test_a_short_interval_does_not_make_every_late_turn_a_resume() -> None:
    agent = guest(ETH, A, settings=Settings(interval=0.1, jitter=0.0))
    agent.until(agent.engine.deadline())
    assert causes(agent.stop(1.05)) == ["refresh"]
    assert causes(agent.stop(1.2)) == ["resume"]


def test_guests_resumed_together_do_not_stay_in_step() -> None:
    nexts = []
    for seed in range(50):
        agent = guest(ETH, A, settings=Settings(), seed=seed)
        agent.stop(3600.0, Resumed(3600.0))
        refresh = agent.engine.schedule.next_refresh(2)
        assert refresh is not None
        nexts.append(refresh - agent.now)
    assert min(nexts) < 0.7
    assert max(nexts) > 4.3


# -- the lease ----------------------------------------------------------------------

LEASED = Settings(interval=5.0, interval_with_lease=60.0, jitter=0.0)


def test_while_the_host_promises_hints_refreshes_are_rare() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(3600.0))
    agent.wait(5.0)  # the tick that was due anyway
    frames = agent.wait(3000.0)
    assert len(frames) == 50
    assert agent.engine.schedule.interval == 60.0


def test_a_promise_of_less_than_a_second_is_one() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(0.3))
    assert agent.engine.lease.is_in_force
    agent.wait(0.3)
    assert not agent.engine.lease.is_in_force


def test_a_promise_renewed_in_time_does_not_run_out() -> None:
    agent = guest(ETH, A, settings=LEASED)
    for _ in range(20):
        agent.tell(LeaseGranted(30.0))
        agent.wait(20.0)
    assert agent.engine.lease.is_in_force
    assert agent.notices().count("lease-granted") == 1


def test_a_promise_that_runs_out_brings_a_burst_and_the_normal_interval_at_once() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(30.0))
    agent.wait(29.999)
    start = agent.now + 0.001
    frames = agent.wait(20.0)
    assert times(frames, start)[:3] == [0.0, 0.1, 0.4]
    assert len(frames) in (3 + 3, 3 + 4)
    assert not agent.engine.lease.is_in_force
    assert "lease-ended" in agent.notices()


def test_a_promise_taken_back_brings_the_normal_interval_and_no_burst() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(3600.0))
    agent.wait(100.0)
    start = agent.now
    frames = agent.tell(LeaseGranted(0.0)) + agent.wait(20.0)
    assert times(frames, start)[0] < 5.0
    assert causes(frames) == ["refresh"]
    assert len(frames) in (3, 4)
    assert agent.tell(LeaseGranted(0.0)) == []  # there is nothing to take back any more


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(LinkSeen(ETH, True), id="the machine may have moved"),
        pytest.param(Resumed(5.0), id="resumed"),
        pytest.param(LeaseGranted(0.0), id="taken back"),
        pytest.param(LeaseGranted(-1.0), id="taken back, badly"),
        pytest.param(HintPortClosed(), id="out of its reach"),
    ],
)
def test_what_voids_a_promise(event: Any) -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(3600.0))
    agent.wait(100.0)
    agent.tell(event)
    assert not agent.engine.lease.is_in_force
    assert agent.engine.schedule.interval == 5.0
    assert len(agent.wait(50.0)) >= 9


def test_a_shorter_promise_replaces_a_longer_one() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(3600.0))
    agent.tell(LeaseGranted(10.0))
    agent.wait(10.0)
    assert not agent.engine.lease.is_in_force


def test_a_promise_outlives_other_settings() -> None:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(3600.0))
    agent.engine.reconfigure(LEASED._replace(interval_with_lease=120.0), agent.now)
    assert agent.engine.schedule.interval == 120.0


# -- conflicts ---------------------------------------------------------------------------

RIVAL = mac("02:00:00:00:00:66")


@pytest.mark.parametrize("reason", [NO_CARRIER, DOWN])
def test_a_link_that_was_down_for_a_moment_still_yields_what_another_claims(reason: int) -> None:
    agent = guest(ETH, A, B)
    agent.tell(ClaimSeen("eth0", A.address, RIVAL))
    agent.see(ETH._replace(flags=reason))
    frames = agent.see(ETH) + agent.wait(50.0)
    assert causes(frames) == ["link-up"]
    kinds = {(f.announcement.address, f.announcement.kind) for f in frames}
    assert kinds == {(A.address, Kind.ARP_PROBE), (B.address, Kind.ARP_REQUEST)}
    late = [f.announcement.kind for f in agent.wait(15.0)]
    assert late == [Kind.ARP_REQUEST] * 3  # the hold-off is over
    (over,) = (n for n in agent.engine.notices.take() if n.event == "address-conflict-over")
    assert dict(over.fields) == {"interface": "eth0", "address": A.address}


def test_an_address_that_was_removed_is_announced_when_it_is_configured_again() -> None:
    agent = guest(ETH, A, B)
    agent.tell(ClaimSeen("eth0", A.address, RIVAL))
    agent.tell(AddressGone(A))
    frames = agent.see(A) + agent.wait(5.0)
    assert {f.announcement.kind for f in frames} == {Kind.ARP_REQUEST}


# -- other settings -----------------------------------------------------------------


def test_links_that_other_settings_select_burst_and_those_they_drop_fall_silent() -> None:
    item = address("10.0.3.1/24", ifindex=3)
    agent = guest(
        ETH,
        A,
        link(3),
        item,
        settings=QUIET._replace(interfaces=InterfaceSelection(exclude=("eth3",))),
    )
    agent.engine.reconfigure(
        QUIET._replace(interfaces=InterfaceSelection(exclude=("eth0",))), agent.now
    )
    start = agent.now
    frames = agent.tell() + agent.wait(5.0)
    assert set(addresses(frames)) == {item.address}
    assert burst_of(frames, agent, start, Cause.OPERATOR)
    assert addresses(agent.wait(600.0)) == [item.address] * 2


def test_the_same_settings_again_send_nothing() -> None:
    agent = guest(ETH, A)
    agent.engine.reconfigure(QUIET, agent.now)
    assert agent.tell() + agent.wait(5.0) == []


def test_another_form_is_announced_at_once() -> None:
    agent = guest(ETH, A, V6)
    agent.engine.reconfigure(QUIET._replace(arp=ArpForm.REPLY), agent.now)
    frames = agent.tell() + agent.wait(5.0)
    assert {f.announcement.kind for f in frames} == {Kind.ARP_REPLY}


def test_an_address_that_other_settings_exclude_in_mid_burst_is_not_announced_again() -> None:
    agent = guest(ETH, A, V6)
    agent.tell(LinkSeen(ETH, True))
    agent.engine.reconfigure(QUIET._replace(addresses=AddressSelection(ipv6=False)), agent.now)
    assert set(addresses(agent.tell() + agent.wait(600.0))) == {A.address}


def test_the_hardware_address_alone_goes_when_an_address_comes() -> None:
    agent = guest(ETH, settings=QUIET._replace(mac_only=True))
    first = agent.tell(LinkSeen(ETH, True))
    assert [(f.announcement.kind, f.announcement.address) for f in first] == [(Kind.RARP, b"")]
    assert set(addresses(agent.see(A) + agent.wait(600.0))) == {A.address}
    assert set(addresses(agent.tell(AddressGone(A)) + agent.wait(600.0))) == {b""}


# -- requests -----------------------------------------------------------------------


def test_a_request_may_say_when_its_rounds_are() -> None:
    agent = guest(ETH, A)
    start = agent.now
    frames = agent.tell(BurstRequested(Cause.HINT, (1.0, 1.5))) + agent.wait(5.0)
    assert times(frames, start) == [1.0, 1.5]


def test_a_request_takes_in_what_the_same_turn_told_before_it() -> None:
    agent = guest(ETH, A)
    frames = agent.tell(*seen(B), BurstRequested(Cause.HINT))
    assert set(addresses(frames)) == {A.address, B.address}


# -- what becomes of frames ---------------------------------------------------------


def test_frames_that_the_kernel_drops_are_counted_and_change_nothing_else() -> None:
    agent = guest(ETH, A, settings=Settings(jitter=0.0))
    reference = guest(ETH, A, settings=Settings(jitter=0.0))
    agent.outcome = (SendOutcome.DROPPED, errno.ENOBUFS)
    assert times(agent.wait(100.0)) == times(reference.wait(100.0))
    assert agent.engine.counters.dropped == {errno.ENOBUFS: 20}
    assert agent.notices() == ["frame-dropped"] + ["frame-dropped"] * 19
    agent.engine.notices.level = LEVEL_INFO
    agent.wait(100.0)
    assert agent.notices() == []
    agent.outcome = (SendOutcome.SENT, 0)
    agent.wait(100.0)
    assert agent.notices() == ["frame-sent"]


def test_the_first_drop_is_a_warning_and_every_frame_a_detail() -> None:
    agent = guest(ETH, A)
    agent.outcome = (SendOutcome.LINK_DOWN, errno.ENETDOWN)
    agent.tell(BurstRequested(Cause.HINT))
    agent.wait(5.0)
    levels = [n.level for n in agent.engine.notices.take() if n.event == "frame-link-down"]
    assert levels == [LEVEL_WARNING, LEVEL_DEBUG, LEVEL_DEBUG]


def test_counters_go_with_the_address() -> None:
    agent = guest(ETH, A, B)
    agent.tell(AddressGone(A))
    agent.see(A)
    assert agent.engine.counters.address(2, A.address).sent == 1
    assert agent.engine.counters.address(2, B.address).sent == 3


# -- notices ------------------------------------------------------------------------


def test_an_operator_is_told_what_is_announced_and_what_is_not_any_more() -> None:
    agent = Agent(QUIET, level=LEVEL_INFO)
    agent.tell(*dump(ETH, A))
    assert agent.notices() == ["address-announced"]
    agent.tell(LinkSeen(ETH._replace(flags=NO_CARRIER)))
    (notice,) = agent.engine.notices.take()
    assert notice.event == "link-withdrawn"
    assert dict(notice.fields) == {"interface": "eth0", "reason": "no carrier"}


def test_notices_that_nobody_reads_are_not_made() -> None:
    agent = Agent(QUIET, level=LEVEL_WARNING)
    agent.tell(*dump(ETH, A), DumpStarted(True))
    assert agent.notices() == ["netlink-overrun"]


def test_notices_are_bounded() -> None:
    agent = guest(ETH, A)
    for _ in range(NOTICES_KEPT + 7):
        agent.engine.handle(BurstRequested(Cause.HINT), agent.now)
    *kept, last = agent.engine.notices.take()
    assert len(kept) == NOTICES_KEPT
    assert (last.event, dict(last.fields)) == ("notices-lost", {"count": 7})
    agent.engine.handle(BurstRequested(Cause.HINT), agent.now)
    assert agent.notices() == ["burst"]


def test_plans_keep_their_order_whatever_changes() -> None:
    agent = guest(ETH, link(3), link(4), A)
    agent.see(ETH._replace(flags=NO_CARRIER), link(3, flags=DOWN))
    assert list(agent.engine.plans) == [2, 3, 4]


def test_the_work_grows_with_the_number_of_new_addresses_and_no_faster() -> None:
    # An overrun may bring thousands at once; counted in calls, so that no machine is too slow.
    def calls(number: int) -> int:
        agent = guest(ETH, A)
        items = [address(f"10.1.{n >> 8}.{n & 255}/16") for n in range(number)]
        count = 0

        def profile(frame: Any, event: str, arg: Any) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(profile)
        try:
            agent.see(*items)
        finally:
            sys.setprofile(None)
        return count

    assert calls(800) < 6 * calls(200)


def fields_of(agent: Agent, event: str) -> list[dict[str, object]]:
    return [dict(each.fields) for each in agent.engine.notices.take() if each.event == event]


def test_each_address_is_named_once_when_it_is_announced() -> None:
    agent = guest(ETH, A)
    agent.see(B)
    agent.see(ETH._replace(name="lan0"))
    expected = {"interface": "eth0", "address": B.address, "hardware_address": ETH.hardware_address}
    assert fields_of(agent, "address-announced") == [expected]


def test_a_hardware_address_alone_is_named_without_an_address() -> None:
    agent = Agent(QUIET._replace(mac_only=True))
    agent.tell(*dump(ETH))
    notices = {each.event: dict(each.fields) for each in agent.engine.notices.take()}
    assert notices["address-announced"]["address"] is None
    assert notices["frame-sent"]["address"] is None


def test_a_frame_is_named_with_all_that_is_in_it() -> None:
    agent = guest(ETH, A)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    agent.outcome = (SendOutcome.DROPPED, errno.ENOBUFS)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    frame = {
        "interface": "eth0",
        "kind": "arp-request",
        "address": A.address,
        "hardware_address": ETH.hardware_address,
        "cause": "hint",
    }
    notices = [each for each in agent.engine.notices.take() if each.event.startswith("frame-")]
    assert [(each.event, dict(each.fields)) for each in notices] == [
        ("frame-sent", {**frame, "error": None}),
        ("frame-dropped", {**frame, "error": errno.ENOBUFS}),
    ]


def test_that_frames_go_out_again_is_good_news() -> None:
    agent = guest(ETH, A, level=LEVEL_INFO)
    for outcome in ((SendOutcome.GONE, errno.ENXIO), (SendOutcome.SENT, 0)):
        agent.outcome = outcome
        agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    notices = [each for each in agent.engine.notices.take() if each.event.startswith("frame-")]
    assert [(each.event, each.level) for each in notices] == [
        ("frame-gone", LEVEL_WARNING),
        ("frame-sent", LEVEL_INFO),
    ]


def test_a_burst_is_named_once_however_often_it_is_asked_for_in_its_course() -> None:
    agent = guest(ETH, A)
    agent.tell(BurstRequested(Cause.HINT, reason="bond0"))
    agent.tell(BurstRequested(Cause.HINT))
    bursts = [each for each in agent.engine.notices.take() if each.event == "burst"]
    assert [(each.level, dict(each.fields)) for each in bursts] == [
        (LEVEL_INFO, {"cause": "hint", "reason": "bond0"}),
        (LEVEL_DEBUG, {"cause": "hint", "reason": None}),
    ]


def test_a_link_that_was_not_announced_is_not_withdrawn() -> None:
    agent = guest(ETH, link(3, flags=NO_CARRIER), A)
    agent.tell(LinkSeen(link(3, flags=DOWN)), LinkGone(3))
    assert agent.notices() == []


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (AddressSeen(B), True),
        (AddressGone(A), True),
        (LinkGone(2), True),
        (LinkSeen(ETH._replace(flags=DOWN)), True),
        (LinkSeen(ETH), False),
        (LinkSeen(ETH._replace(name="lan0")), False),
        (LinkSeen(link(3)), False),
        (BurstRequested(Cause.HINT), False),
        (Resumed(9.0), False),
    ],
)
def test_the_revision_tells_whether_something_else_is_announced(event: Any, changes: bool) -> None:
    agent = guest(ETH, A)
    before = agent.engine.revision
    agent.tell(event)
    agent.wait(600.0)
    assert (agent.engine.revision != before) is changes


@pytest.mark.parametrize("event", [LinkSeen(ETH, True), AddressSeen(B), Resumed(3.0)])
def test_what_was_told_is_to_be_acted_on_at_once(event: Any) -> None:
    agent = guest(ETH, A)
    agent.engine.handle(event, agent.now)
    assert agent.engine.deadline() == -inf
