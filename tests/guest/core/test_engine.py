"""engine: from events to frames and their moments, at literal times."""

from __future__ import annotations

import errno
import random
import sys
from math import inf
from typing import Any

import pytest

from garp_agent.config.settings import ArpForm, RateLimit, Settings
from garp_agent.config.settings import InterfaceSelection as Interfaces
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import (
    IF_OPER_DORMANT,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    IFF_DORMANT,
    IFF_LOOPBACK,
    PROBE_KINDS,
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
NEW_MAC = ETH._replace(hardware_address=mac("02:00:00:00:00:99"))
A = address("10.0.0.1/24")
B = address("10.0.0.2/24")
V6 = address("fd00::1/64")
ON_3 = address("10.0.3.1/24", ifindex=3)
LO = link(1, "lo", flags=RUNNING | IFF_LOOPBACK)
# Only bursts of addresses show.
QUIET = Settings(interval=270.0, interval_with_lease=270.0, jitter=0.0, mac_only=False)
ONE_ROUND = QUIET._replace(burst=(0.0,))
HINT = BurstRequested(Cause.HINT)
CHECKED = (Cause.START, Cause.LINK_UP, Cause.RESUME)
CLAIM_NOTHING = {*PROBE_KINDS, Kind.RARP}


def guest(*things: Any, settings: Settings = QUIET, **more: Any) -> Agent:
    """An agent that has seen all this, and whose start burst is over."""
    agent = Agent(settings, **more)
    agent.tell(*dump(*things))
    agent.wait(2.0)
    agent.notices()
    return agent


def claims(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.announcement.kind not in CLAIM_NOTHING]


def is_burst_of(frames: list[Frame], agent: Agent, since: float, cause: Cause) -> bool:
    """Whether the frames are one burst as configured, and nothing else.

    After what may have been an absence, frames that claim nothing come half a second before.
    """
    later = list(agent.engine.settings.burst)
    probes = []
    if cause in CHECKED:
        wait = 0.25 if cause is Cause.RESUME else 0.5
        probes, later = [0.0], [wait]
        for offset in agent.engine.settings.burst:
            if wait + offset > later[-1]:  # otherwise a check is under way
                probes.append(wait + offset)
                later.append(wait + offset + wait)
    first = [f for f in frames if f.announcement.kind in CLAIM_NOTHING]
    assert (times(first, since), times(claims(frames), since)) == (probes, later)
    return causes(frames) == [cause.value]


def settled(*things: Any, settings: Settings) -> Agent:
    """An agent whose refreshes begin with no probe any more."""
    agent = guest(*things, settings=settings)
    agent.wait(60.0 + 2 * settings.interval)
    return agent


def notices(agent: Agent, event: str) -> list[tuple[int, dict[str, object]]]:
    found = [each for each in agent.engine.notices.take() if each.event.startswith(event)]
    return [(each.level, dict(each.fields)) for each in found]


# -- the start ----------------------------------------------------------------------


def test_engine_before_first_complete_dump_sends_nothing() -> None:
    agent = Agent()
    assert agent.tell(DumpStarted(), *seen(ETH, A)) == []
    assert agent.engine.deadline() == inf
    assert agent.wait(100.0) == []
    assert addresses(agent.tell(DumpComplete())) == [A.address]


def test_engine_at_start_bursts_every_address_of_every_suitable_link() -> None:
    agent = Agent(QUIET)
    start = agent.now
    events = dump(LO, ETH, link(3), address("127.0.0.1/8", ifindex=1), A, V6, ON_3)
    frames = agent.tell(*events) + agent.wait(5.0)
    assert is_burst_of(frames, agent, start, Cause.START)
    sent = {(f.announcement.ifindex, f.announcement.address) for f in frames}
    assert sent == {(2, A.address), (2, V6.address), (3, ON_3.address)}
    assert len(frames) == 4 + 4 + 4


def test_frame_has_all_fields_of_its_link_and_address() -> None:
    frames = guest(ETH, A, V6, ForwardingSeen(2, True)).tell(HINT)
    arp, advertisement = Kind.ARP_REQUEST, Kind.UNSOLICITED_NA
    assert [frame.announcement for frame in frames] == [
        Announcement(2, arp, ETH.hardware_address, A.address, Cause.HINT),
        Announcement(2, advertisement, ETH.hardware_address, V6.address, Cause.HINT, router=True),
    ]


def test_request_before_first_dump_is_complete_has_no_effect() -> None:
    agent = Agent(QUIET)
    agent.tell(HINT, LeaseGranted(5.0), Resumed(1.0), DumpStarted(), *seen(ETH, A), HINT)
    frames = agent.tell(*seen(B), DumpComplete()) + agent.wait(5.0)
    assert causes(frames) == ["start"]
    assert set(addresses(frames)) == {A.address, B.address}


# -- one frame at a time ------------------------------------------------------------

BOTH = ONE_ROUND._replace(arp=ArpForm.BOTH)


def test_address_of_two_frames_takes_two_tokens() -> None:
    agent = guest(ETH, A, B, settings=BOTH._replace(rate_limit=RateLimit(1.0, 3)))
    agent.wait(20.0)
    start = agent.now
    frames = agent.tell(HINT) + agent.wait(10.0)
    assert [
        (round(f.at - start, 6), f.announcement.kind.value, f.announcement.address) for f in frames
    ] == [
        (0.0, "arp-request", A.address),
        (0.0, "arp-reply", A.address),
        (1.0, "arp-request", B.address),
        (1.0, "arp-reply", B.address),
    ]


@pytest.mark.parametrize(
    ("event", "sender"),
    [
        (AddressGone(B), ETH),
        (LinkSeen(NEW_MAC), NEW_MAC),
        (AddressGone(A), None),
        (LinkGone(2), None),
        (LinkSeen(ETH._replace(flags=DOWN)), None),
        (ClaimSeen("eth0", A.address, mac("02:00:00:00:00:66")), None),  # now only a probe
    ],
)
def test_second_frame_of_address_is_sent_only_if_still_right(event: Any, sender: Any) -> None:
    agent = guest(ETH, A, B, settings=BOTH)
    engine, now = agent.engine, agent.now
    engine.handle(HINT, now)
    first = engine.next_frame(now)
    assert first == Announcement(2, Kind.ARP_REQUEST, ETH.hardware_address, A.address, Cause.HINT)
    assert engine.deadline() == -inf
    engine.handle(event, now)
    found = engine.next_frame(now)
    is_second = found is not None and (found.kind, found.address) == (Kind.ARP_REPLY, A.address)
    assert is_second is (sender is not None)
    if found is not None and is_second:
        assert found.hardware_address == sender.hardware_address


# -- the timer ----------------------------------------------------------------------


def test_refresh_by_default_comes_every_four_to_six_seconds_and_nothing_else_wakes() -> None:
    agent = settled(ETH, A, settings=Settings())
    before = agent.wakeups
    frames = agent.wait(3600.0)
    assert causes(frames) == ["refresh"]
    at = times(frames)
    gaps = [later - earlier for earlier, later in zip(at, at[1:])]
    assert (min(gaps) >= 4.0 - 1e-6, max(gaps) <= 6.0 + 1e-6) == (True, True)
    assert agent.wakeups - before == len(frames)


def test_engine_with_nothing_to_announce_has_no_deadline() -> None:
    assert guest(LO, link(2, flags=DOWN)).engine.deadline() == inf


# -- bursts -------------------------------------------------------------------------

LOST = ETH._replace(flags=NO_CARRIER)
UP_AGAIN = seen(LOST, ETH)
TENTATIVE = V6._replace(flags=IFA_F_TENTATIVE)
OPTIMISTIC = V6._replace(flags=IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)
SEEN_OPTIMISTIC = AddressSeen(OPTIMISTIC)
ETH_7 = link(7, "eth0", hardware_address=mac("02:00:00:00:00:77"))
IN_BRIDGE = link(2, "eth0", master_ifindex=5, port_kind="bridge")
# 802.1X has not finished: the kernel sets the state, and the flag on the links above.
DORMANT = ETH._replace(operational_state=IF_OPER_DORMANT)


@pytest.mark.parametrize(
    ("before", "events", "cause", "items"),
    [
        # What concerns the link bursts all its addresses.
        ([ETH, A, V6], UP_AGAIN, Cause.LINK_UP, [A, V6]),
        ([ETH, A, V6], seen(NEW_MAC), Cause.HARDWARE_ADDRESS_CHANGED, [A, V6]),
        ([ETH, A, V6], [LinkSeen(ETH, True)], Cause.NOTIFY_PEERS, [A, V6]),
        ([ETH, A, V6], [BurstRequested(Cause.OPERATOR)], Cause.OPERATOR, [A, V6]),
        ([ETH, A, V6], [HINT], Cause.HINT, [A, V6]),
        ([ETH, A, V6], [Resumed(60.0)], Cause.RESUME, [A, V6]),
        ([ETH, A, V6], [*UP_AGAIN, LinkSeen(ETH, True)], Cause.LINK_UP, [A, V6]),
        ([LOST, A, V6], [LinkSeen(ETH, True)], Cause.LINK_UP, [A, V6]),
        ([ETH, A, V6], [Resumed(60.0), LinkSeen(ETH, True)], Cause.RESUME, [A, V6]),
        ([ETH, A, V6], [*seen(LOST, NEW_MAC)], Cause.LINK_UP, [A, V6]),
        ([ETH, A], [*seen(B), HINT], Cause.HINT, [A, B]),
        # New links and new addresses burst alone.
        ([ETH, A], seen(link(3), ON_3), Cause.LINK_UP, [ON_3]),
        ([ETH, A, link(3, flags=NO_CARRIER), ON_3], seen(link(3)), Cause.LINK_UP, [ON_3]),
        ([IN_BRIDGE, A], seen(ETH), Cause.LINK_UP, [A]),
        ([LOST, A], seen(DORMANT), Cause.LINK_UP, [A]),
        ([DORMANT, A], seen(ETH), Cause.LINK_UP, [A]),
        ([ETH._replace(flags=RUNNING | IFF_DORMANT), A], seen(ETH), Cause.LINK_UP, [A]),
        ([ETH, A], seen(B), Cause.ADDRESS_ADDED, [B]),
        ([ETH], seen(A), Cause.ADDRESS_ADDED, [A]),
        ([ETH, TENTATIVE], seen(A), Cause.ADDRESS_ADDED, [A]),
        ([ETH, A, TENTATIVE], seen(V6), Cause.ADDRESS_ADDED, [V6]),
        ([ETH, A], [SEEN_OPTIMISTIC], Cause.ADDRESS_ADDED, [V6]),
        ([ETH, A, OPTIMISTIC], seen(V6), Cause.ADDRESS_ADDED, [V6]),
        ([ETH, A, V6], [ForwardingSeen(2, True)], Cause.ADDRESS_ADDED, [V6]),
        ([ETH, A], dump(ETH, A, B, overrun=True), Cause.ADDRESS_ADDED, [B]),
        ([ETH, A], [LinkGone(2), *seen(ETH_7, A._replace(ifindex=7))], Cause.LINK_UP, [A]),
    ],
)
def test_event_bursts_the_addresses_that_it_concerns(
    before: list[Any], events: list[Any], cause: Cause, items: list[Any]
) -> None:
    agent = guest(*before)
    start = agent.now
    frames = agent.tell(*events) + agent.wait(5.0)
    assert is_burst_of(frames, agent, start, cause)
    probes = sum(f.announcement.kind in CLAIM_NOTHING for f in frames)
    rounds = 3 if cause not in CHECKED or cause is Cause.RESUME else 2  # of claims
    assert len(frames) == rounds * len(items) + probes
    assert set(addresses(frames)) == {item.address for item in items}
    links = agent.engine.inventory.links
    for frame in frames:
        sent = frame.announcement
        assert sent.hardware_address == links[sent.ifindex].hardware_address
        assert sent.override is (SEEN_OPTIMISTIC not in events)
        assert sent.kind in CLAIM_NOTHING or sent.router is (events == [ForwardingSeen(2, True)])


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(LinkSeen(ETH), id="same link"),
        pytest.param(LinkSeen(ETH._replace(name="lan0")), id="renamed"),
        pytest.param(LinkSeen(ETH._replace(operational_state=6)), id="operational state"),
        pytest.param(LinkSeen(ETH._replace(flags=RUNNING | 0x100)), id="promiscuous"),
        pytest.param(LinkSeen(DORMANT), id="dormant, as by wpa_supplicant"),
        pytest.param(LinkSeen(link(3)), id="other link without addresses"),
        pytest.param(AddressGone(B), id="address removed"),
        pytest.param(AddressGone(address("10.9.9.9/8")), id="unknown address removed"),
        pytest.param(LinkGone(9), id="unknown link removed"),
        pytest.param(AddressSeen(TENTATIVE), id="tentative address"),
        pytest.param(DumpStarted(True), id="overrun"),
    ],
)
def test_event_without_effect_on_addresses_bursts_nothing(event: Any) -> None:
    agent = guest(ETH, A, B)
    last, revision = agent.engine.schedule.last_burst(2), agent.engine.revision
    assert agent.tell(event) + agent.wait(5.0) == []
    assert agent.engine.schedule.last_burst(2) == last
    assert agent.engine.revision == revision + (event == AddressGone(B))


def test_many_triggers_in_one_turn_are_one_burst() -> None:
    agent = guest(ETH, A)
    start = agent.now
    events = [LinkSeen(ETH, True), *UP_AGAIN, LinkSeen(NEW_MAC), Resumed(9.0)] * 50
    frames = agent.tell(*events) + agent.wait(5.0)
    assert (len(frames), times(frames, start)) == (4, [0.0, 0.5, 0.6, 1.1])


def test_request_with_offsets_bursts_at_these_moments() -> None:
    agent = guest(ETH, A)
    start = agent.now
    frames = agent.tell(BurstRequested(Cause.HINT, (1.0, 1.5))) + agent.wait(5.0)
    assert times(frames, start) == [1.0, 1.5]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([AddressGone(A)], id="address removed"),
        pytest.param([LinkGone(2)], id="link deleted"),
        pytest.param(seen(ETH._replace(flags=DOWN)), id="link set down"),
        pytest.param(seen(LOST), id="carrier lost"),
        pytest.param(seen(IN_BRIDGE), id="put into a bridge"),
        pytest.param(dump(ETH), id="address missing in a dump"),
        pytest.param(dump(), id="link missing in a dump"),
    ],
)
@pytest.mark.parametrize("meanwhile", [0.0, 0.05, 0.15, 3.0])
def test_address_that_is_gone_is_never_announced_again(events: list[Any], meanwhile: float) -> None:
    agent = guest(ETH, A, settings=Settings(mac_only=False))
    agent.tell(LinkSeen(ETH, True))
    agent.wait(meanwhile)
    assert agent.tell(*events) + agent.wait(600.0) == []
    assert agent.tell(HINT) + agent.wait(600.0) == []


def test_overrun_changes_nothing_before_the_dump_is_complete() -> None:
    agent = guest(ETH, A, B, settings=Settings())
    agent.tell(DumpStarted(True), *seen(ETH, A))
    assert set(addresses(agent.wait(20.0))) == {A.address, B.address}
    agent.tell(DumpComplete())
    assert set(addresses(agent.wait(20.0))) == {A.address}
    assert agent.engine.overruns == 1
    assert notices(agent, "netlink") == [(LEVEL_WARNING, {"action": "reading everything anew"})]


# -- stacked links ------------------------------------------------------------------

PORT = link(2, "eth0", master_ifindex=5, port_kind="bridge")
DEAD_PORT = PORT._replace(flags=NO_CARRIER)
BRIDGE = link(5, "br0", kind="bridge")
VLAN = link(6, "br0.7", kind="vlan", parent_ifindex=5)
ON_BRIDGE = address("10.0.5.1/24", ifindex=5)
ON_VLAN = address("10.0.6.1/24", ifindex=6)
STACK = [BRIDGE, VLAN, link(3), ON_BRIDGE, ON_VLAN, ON_3]


@pytest.mark.parametrize(
    ("before", "events", "cause"),
    [
        ([PORT], [LinkSeen(PORT, True)], "notify-peers"),
        ([PORT], seen(DEAD_PORT, PORT), "link-up"),
        ([DEAD_PORT], seen(PORT._replace(operational_state=IF_OPER_DORMANT)), "link-up"),
        ([PORT._replace(operational_state=IF_OPER_DORMANT)], seen(PORT), "link-up"),
        # Put into the bridge and carrier back in one event; or the first event after a lost one.
        ([LOST], seen(PORT), "link-up"),
        ([], [LinkSeen(PORT, True)], "notify-peers"),
    ],
)
def test_event_of_a_port_bursts_what_is_stacked_on_it(
    before: list[Any], events: list[Any], cause: str
) -> None:
    agent = guest(*before, *STACK)
    frames = agent.tell(*events) + agent.wait(5.0)
    assert set(addresses(frames)) == {ON_BRIDGE.address, ON_VLAN.address}
    probes = sum(f.announcement.kind is Kind.ARP_PROBE for f in frames)
    assert (causes(frames), len(frames), probes) == (
        ([cause], 8, 4) if cause == "link-up" else ([cause], 6, 0)
    )


def test_port_that_changes_without_carrier_bursts_nothing() -> None:
    agent = guest(DEAD_PORT, *STACK)
    events = (DEAD_PORT._replace(name="lan0"), DEAD_PORT._replace(flags=DOWN), DEAD_PORT)
    assert agent.see(*events) == []


# -- being stopped ------------------------------------------------------------------

STEADY = Settings(interval=5.0, jitter=0.0)


@pytest.mark.parametrize("seconds", [11.0, 3600.0, 86400.0 * 365])
def test_stopped_for_long_gives_one_burst_and_no_flood(seconds: float) -> None:
    agent = guest(ETH, A, B, settings=STEADY)
    agent.wait(10.0)
    frames = agent.stop(seconds)
    start = agent.now
    # A new phase, because guests that are resumed together must not announce together.
    assert (agent.engine.schedule.next_refresh(2) or inf) < start + 4.999
    frames += agent.wait(1.2)
    assert {0.0, 0.25, 0.35, 0.6, 0.65, 0.9} <= set(times(frames, start))
    assert (causes(frames)[0], len(frames) <= 14, agent.engine.resumes) == ("resume", True, 1)
    assert "resumed" in agent.notices()


@pytest.mark.parametrize("pending", [1, 40])
@pytest.mark.parametrize("events", [[Resumed(3600.0)], []])
def test_stopped_in_mid_burst_counts_as_one_resume(pending: int, events: list[Any]) -> None:
    agent = guest(ETH, *[address(f"10.0.{n}.1/24") for n in range(pending)], settings=Settings())
    agent.tell(LinkSeen(ETH, True))
    agent.notices()
    agent.stop(3600.0, *events)
    assert (agent.engine.resumes, agent.notices().count("resumed")) == (1, 1)
    agent.wait(600.0)
    assert agent.engine.resumes == 1


@pytest.mark.parametrize(
    ("interval", "late", "cause"),
    [
        (5.0, 4.9, "refresh"),
        (5.0, 5.1, "resume"),
        (0.1, 0.95, "refresh"),  # a short interval does not make each late turn a resume
        (0.1, 1.1, "resume"),
    ],
)
def test_turn_later_than_interval_and_one_second_is_a_resume(
    interval: float, late: float, cause: str
) -> None:
    agent = settled(ETH, A, settings=Settings(interval=interval, jitter=0.0))
    agent.until(agent.engine.deadline())
    assert causes(agent.stop(interval + late)) == [cause]


# -- the lease ----------------------------------------------------------------------

LEASED = Settings(interval=5.0, interval_with_lease=60.0, jitter=0.0)


def leased(seconds: float = 3600.0) -> Agent:
    agent = guest(ETH, A, settings=LEASED)
    agent.tell(LeaseGranted(seconds))
    return agent


def test_lease_makes_refreshes_rare() -> None:
    agent = leased()
    agent.wait(65.0)  # the refresh that was due anyway, and one that begins with a probe
    assert len(agent.wait(3000.0)) == 50
    assert agent.engine.lease.remaining(agent.now) == pytest.approx(535.0)


@pytest.mark.parametrize(
    "change",
    [
        [LinkSeen(ETH._replace(flags=NO_CARRIER)), LinkSeen(ETH)],
        [LinkSeen(ETH._replace(hardware_address=NEW_MAC.hardware_address))],
        [AddressGone(A), AddressSeen(A)],
        [AddressSeen(B)],
        [LinkSeen(ETH, notify_peers=True), LeaseGranted(3600.0)],
        [Resumed(60.0), LeaseGranted(3600.0)],
    ],
    ids=["carrier", "hardware address", "address again", "address", "peers", "resume"],
)
@pytest.mark.parametrize("at", [65.0, 90.0, 119.0])
def test_lease_does_not_stretch_the_interval_for_a_minute_after_a_change(
    change: list[Any], at: float
) -> None:
    """The path may work later, and no host knows when."""
    agent = leased()
    agent.wait(at)
    for event in change:
        agent.tell(event)
        agent.wait(0.01)
    agent.wait(2.0)
    since = agent.now
    sent = [since, *times(claims(agent.wait(58.0)))]
    assert max(after - before for before, after in zip(sent, sent[1:])) <= 6.0
    assert sent[-1] - since >= 52.0
    agent.wait(65.0)
    assert len(set(times(claims(agent.wait(600.0))))) in (9, 10, 11)


def test_lease_renewed_does_not_run_out_and_is_logged_once() -> None:
    agent = leased(30.0)
    for _ in range(20):
        agent.wait(20.0)
        agent.tell(LeaseGranted(30.0))
    assert agent.engine.lease.is_in_force
    assert notices(agent, "lease") == [(LEVEL_INFO, {"seconds": 30.0})]


@pytest.mark.parametrize("seconds", [0.3, 30.0])
def test_lease_that_runs_out_bursts_and_restores_the_interval(seconds: float) -> None:
    agent = leased(3600.0)
    agent.tell(LeaseGranted(seconds))  # shorter: it replaces the longer one
    agent.wait(seconds - 0.001)
    assert agent.engine.lease.is_in_force
    start = agent.now + 0.001
    frames = agent.wait(20.0)
    assert times(frames, start)[:6] == [0.0, 0.25, 0.35, 0.6, 0.65, 0.9]
    assert len(claims(frames)) in (3 + 3, 3 + 4)
    assert not agent.engine.lease.is_in_force
    assert agent.engine.lease.remaining(agent.now) is None
    ended = [fields for _, fields in notices(agent, "lease-ended")]
    assert ended == [{"reason": "ran out"}]


@pytest.mark.parametrize(
    ("event", "bursts"),
    [
        pytest.param(LinkSeen(ETH, True), True, id="machine may have moved"),
        pytest.param(Resumed(5.0), True, id="resumed"),
        pytest.param(LeaseGranted(0.0), False, id="revoked"),
        pytest.param(LeaseGranted(-1.0), False, id="revoked with a negative number"),
        pytest.param(HintPortClosed(), False, id="port closed"),
        pytest.param(BurstRequested(Cause.HINT, ends_lease=True), True, id="hint"),
        pytest.param(BurstRequested(Cause.HINT, (30.0,), "", True), False, id="delayed hint"),
    ],
)
def test_lease_ended_by_an_event_restores_the_interval_at_once(event: Any, bursts: bool) -> None:
    agent = leased()
    agent.wait(100.0)
    agent.notices()
    frames = agent.tell(event)
    assert bool(frames) is bursts
    assert not agent.engine.lease.is_in_force
    assert agent.engine.schedule.interval == 5.0
    assert len(notices(agent, "lease-ended")) == 1
    refreshes = [f for f in claims(agent.wait(50.0)) if f.announcement.cause is Cause.REFRESH]
    assert len(refreshes) in (10, 11)
    assert refreshes[0].at - agent.now < -44.9
    agent.tell(event)  # again: there is no lease to end any more
    assert notices(agent, "lease-ended") == []


# -- a lack of memory ---------------------------------------------------------------


def test_lack_of_memory_bursts_after_the_next_dump_and_ends_the_lease() -> None:
    """A hint that was read, or a carrier that came back, may be among what was lost."""
    agent = leased()
    agent.engine.is_damaged = True
    assert causes(agent.wait(1.0)) == []
    assert causes(agent.tell(*dump(ETH, A))) == ["resume"]
    assert not agent.engine.lease.is_in_force
    assert Kind.ARP_REQUEST in {frame.announcement.kind for frame in agent.wait(1.0)}


def test_lack_of_memory_again_and_again_bursts_every_30_s() -> None:
    agent = guest(ETH, A, settings=ONE_ROUND)
    agent.wait(100.0)
    start = agent.now
    frames = []
    for _ in range(70):
        agent.engine.is_damaged = True
        frames += agent.tell(*dump(ETH, A))
        frames += agent.wait(1.0)
    began = [at for at in times(frames, start) if at % 30.0 == 0.0]
    assert began == [0.0, 30.0, 60.0]
    assert all(at % 30.0 < 1.0 for at in times(frames, start))


def test_burst_for_a_second_lack_of_memory_wakes_the_agent_30_s_after_the_first() -> None:
    agent = guest(ETH, A, settings=ONE_ROUND)
    agent.engine.is_damaged = True
    agent.tell(*dump(ETH, A))
    agent.wait(10.0)
    agent.engine.is_damaged = True
    assert causes(agent.tell(*dump(ETH, A))) == []
    start = agent.now
    frames = agent.wait(60.0)
    assert causes(frames)[0] == "resume"
    assert times(frames, start)[0] == 20.0


# -- other settings -----------------------------------------------------------------


def excluding(name: str) -> Settings:
    return QUIET._replace(interfaces=Interfaces(exclude=(name,)))


def reconfigured(agent: Agent, settings: Settings) -> list[Frame]:
    agent.engine.reconfigure(settings, agent.now)
    return agent.tell() + agent.wait(5.0)


def test_settings_that_select_other_links_burst_these_only() -> None:
    agent = guest(ETH, A, link(3), ON_3, settings=excluding("eth3"))
    start = agent.now
    frames = reconfigured(agent, excluding("eth0"))
    assert set(addresses(frames)) == {ON_3.address}
    assert is_burst_of(frames, agent, start, Cause.OPERATOR)
    assert addresses(agent.wait(600.0)) == [ON_3.address] * 2
    assert causes(agent.see(B._replace(ifindex=3))) == ["address-added"]


@pytest.mark.parametrize(
    ("settings", "kinds"), [(QUIET, set()), (QUIET._replace(arp=ArpForm.REPLY), {Kind.ARP_REPLY})]
)
def test_settings_with_other_form_burst_what_has_changed(
    settings: Settings, kinds: set[Kind]
) -> None:
    frames = reconfigured(guest(ETH, A, V6), settings)
    assert {f.announcement.kind for f in frames} == kinds


def test_mac_only_frame_is_sent_only_while_there_is_no_address() -> None:
    agent = Agent(QUIET._replace(mac_only=True))
    first = agent.tell(*dump(ETH))
    assert [(f.announcement.kind, f.announcement.address) for f in first] == [(Kind.RARP, b"")]
    told = {each.event: dict(each.fields) for each in agent.engine.notices.take()}
    assert told["address-announced"]["address"] is told["frame-sent"]["address"] is None
    assert set(addresses(agent.see(A) + agent.wait(600.0))) == {A.address}
    assert set(addresses(agent.tell(AddressGone(A)) + agent.wait(600.0))) == {b""}


# -- addresses on several links ------------------------------------------------------


def test_route_that_comes_after_its_address_decides_a_second_later() -> None:
    route = [2]
    agent = Agent(QUIET)
    agent.engine = Engine(QUIET, lambda: 0.5, route=lambda destination, vrf: route[0])
    agent.tell(*dump(ETH, link(3), A, A._replace(ifindex=3)))
    assert [list(agent.engine.plans[i].targets) for i in (2, 3)] == [[A.address], []]
    route[0] = 3
    frames = agent.wait(5.0)
    assert [(f.announcement.ifindex, f.announcement.cause) for f in frames][-1:] == [
        (3, Cause.ADDRESS_ADDED)
    ]
    assert [list(agent.engine.plans[i].targets) for i in (2, 3)] == [[], [A.address]]
    # It looks again for a minute after a change only, or at the end of a dump.
    agent.wait(100.0)
    route[0] = 2
    agent.wait(200.0)
    assert [list(agent.engine.plans[i].targets) for i in (2, 3)] == [[], [A.address]]
    agent.tell(*dump(ETH, link(3), A, A._replace(ifindex=3)))
    assert [list(agent.engine.plans[i].targets) for i in (2, 3)] == [[A.address], []]


# -- outcomes -----------------------------------------------------------------------


def test_frames_that_are_dropped_are_counted_and_change_nothing_else() -> None:
    agent, reference = (settled(ETH, A, settings=STEADY) for _ in range(2))
    agent.outcome = (SendOutcome.DROPPED, errno.ENOBUFS)
    assert times(agent.wait(100.0)) == times(reference.wait(100.0))
    assert agent.engine.counters.dropped == {errno.ENOBUFS: 20}


def beside_macvlans(count: int) -> Agent:
    """A NIC with an address, after its macvlans, which have addresses, too."""
    nic = link(5000, "eth0")
    items = [address(f"10.{1 + (n >> 8)}.{n & 255}.1/24", 3 + n) for n in range(count)]
    links = [link(item.ifindex, kind="macvlan", parent_ifindex=5000) for item in items]
    agent = Agent(ONE_ROUND, level=LEVEL_INFO)
    agent.tell(*dump(*links, nic, *items, A._replace(ifindex=5000)))
    agent.wait(2.0 * count)
    agent.notices()
    return agent


def test_address_is_not_delayed_by_2000_links_of_its_nic_that_refuse_frames() -> None:
    agent = beside_macvlans(2000)
    agent.refusing = range(3, 2003)
    since = agent.now
    frames = agent.tell(HINT)
    assert [f.at - since for f in frames if f.announcement.ifindex == 5000] == [0.0]
    dropped = notices(agent, "frame-dropped")
    assert [level for level, _ in dropped] == [LEVEL_WARNING] * 6
    assert [fields.get("further_frames") for _, fields in dropped] == [None] * 5 + [
        "not logged for up to a minute"
    ]
    agent.refusing = ()
    agent.wait(100.0)
    agent.notices()
    agent.tell(HINT)
    agent.wait(50.0)
    assert len(notices(agent, "frame-sent")) == 6


def test_links_of_a_nic_that_refuse_now_and_then_let_14_frames_out_in_any_second() -> None:
    agent = beside_macvlans(100)
    draw = random.Random(7)
    sent = []
    for _ in range(300):
        agent.refusing = {ifindex for ifindex in range(3, 103) if draw.random() < 0.7}
        frames = agent.tell(HINT) + agent.wait(draw.choice([0.01, 0.1, 0.5]))
        sent += [f.at for f in frames if f.announcement.ifindex not in agent.refusing]
    assert len(sent) > 300
    assert all(later - first > 1.0 for first, later in zip(sent, sent[14:]))


def test_link_that_refuses_frames_tries_each_address_then_rests_until_the_next_hint() -> None:
    agent = guest(ETH, *(address(f"10.0.0.{n}/24") for n in range(1, 41)), settings=ONE_ROUND)
    agent.wait(100.0)
    agent.refusing = (2,)
    since = agent.now
    tried = agent.tell(HINT) + agent.until(since + 30.0)
    assert times(tried, since)[:40] == [round(n / 10, 1) for n in range(40)]
    assert len(set(addresses(tried))) == 40
    assert agent.engine.schedule._links[2].rest > 0.0
    agent.refusing = ()
    since = agent.now
    sent = agent.tell(HINT) + agent.until(since + 5.0)
    assert times(sent, since)[0] <= 0.1
    assert len(set(addresses(sent))) == 40


def test_link_whose_frames_are_refused_is_tried_less_and_less() -> None:
    agent = guest(ETH, A, settings=Settings(interval=1.0, burst=(0.0, 0.1, 0.2, 0.4, 0.5, 0.9)))
    agent.wait(100.0)
    agent.refusing = (2,)
    since = agent.now
    tried = agent.tell(HINT) + agent.until(since + 0.95)
    assert times(tried, since) == [0.0, 0.1, 0.3, 0.7]


def test_addresses_whose_frames_are_taken_wait_little_for_those_whose_frames_are_refused() -> None:
    """A filter of the guest can refuse the frames of one protocol (ENOBUFS)."""
    six = [address(f"2001:db8::{n:x}/64") for n in range(1, 9)]
    agent = guest(ETH, A, *six, settings=Settings(interval=5.0, jitter=0.0))
    agent.until(1100.0)
    agent.refusing = {item.address for item in six}
    frames = agent.until(1200.0)
    ours = [each.at for each in frames if each.announcement.address == A.address]
    assert max(later - earlier for earlier, later in zip(ours, ours[1:])) <= 16.0  # 15 without
    sent = agent.tell(HINT) + agent.wait(2.0)
    assert A.address in [each.announcement.address for each in sent]


@pytest.mark.parametrize("level", [LEVEL_DEBUG, LEVEL_INFO])
def test_outcome_other_than_before_is_logged_above_debug(level: int) -> None:
    agent = guest(ETH, A, settings=ONE_ROUND, level=level)
    for outcome in [(SendOutcome.SENT, 0), (SendOutcome.GONE, errno.ENXIO), (SendOutcome.SENT, 0)]:
        agent.outcome = outcome
        agent.tell(HINT)
        agent.wait(0.1)
        agent.tell(HINT)
        agent.wait(0.1)
    fields = {
        "interface": "eth0",
        "kind": "arp-request",
        "address": A.address,
        "hardware_address": ETH.hardware_address,
        "cause": "hint",
    }
    found = notices(agent, "frame-")
    assert [each for each in found if each[0] != LEVEL_DEBUG] == [
        (LEVEL_WARNING, {**fields, "error": errno.ENXIO}),
        (LEVEL_INFO, {**fields, "error": None}),
    ]
    assert len(found) == 2 + (4 if level == LEVEL_DEBUG else 0)


# -- notices ------------------------------------------------------------------------


def test_address_announced_and_link_withdrawn_are_logged_once() -> None:
    agent = guest(ETH, link(3, flags=NO_CARRIER), A, level=LEVEL_INFO)
    agent.see(B, ETH._replace(name="lan0"), ETH)
    agent.tell(LinkSeen(link(3, flags=DOWN)), LinkGone(3))  # was not announced
    mine = {"interface": "eth0", "hardware_address": ETH.hardware_address}
    assert notices(agent, "") == [(LEVEL_INFO, {**mine, "address": B.address})]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (LinkSeen(LOST), "no carrier"),
        (LinkGone(2), "gone"),
        (AddressGone(A), "no address to announce"),
    ],
)
def test_link_withdrawn_is_logged_with_its_reason(event: Any, reason: str) -> None:
    agent = guest(ETH, A)
    revision = agent.engine.revision
    agent.tell(event)
    agent.tell(LinkGone(2))
    fields = {"interface": "eth0", "reason": reason}
    assert notices(agent, "link-withdrawn") == [(LEVEL_INFO, fields)]
    assert agent.engine.revision == revision + 1


def test_burst_requested_in_mid_burst_is_logged_as_detail() -> None:
    agent = guest(ETH, A)
    agent.tell(BurstRequested(Cause.HINT, reason="bond0"))
    agent.tell(HINT)
    assert notices(agent, "burst") == [
        (LEVEL_INFO, {"cause": "hint", "reason": "bond0"}),
        (LEVEL_DEBUG, {"cause": "hint", "reason": None}),
    ]


def test_notices_are_filtered_by_level_and_bounded() -> None:
    agent = Agent(QUIET, level=LEVEL_WARNING)
    agent.tell(*dump(ETH, A), DumpStarted(True))
    assert agent.notices() == ["netlink-overrun"]
    agent = guest(ETH, A)
    for _ in range(NOTICES_KEPT + 7):
        agent.engine.handle(HINT, agent.now)
    *kept, last = agent.engine.notices.take()
    assert len(kept) == NOTICES_KEPT
    assert (last.level, last.event, last.fields) == (LEVEL_WARNING, "notices-lost", (("count", 7),))
    agent.engine.handle(HINT, agent.now)
    assert agent.notices() == ["burst"]


# -- what others read ---------------------------------------------------------------


def test_plans_keep_their_order_when_links_change() -> None:
    agent = guest(ETH, link(3), link(4), A)
    agent.see(LOST, link(3, flags=DOWN))
    assert list(agent.engine.plans) == [2, 3, 4]


@pytest.mark.parametrize("event", [LinkSeen(ETH, True), AddressSeen(B), Resumed(3.0)])
def test_deadline_after_an_event_with_effect_is_at_once(event: Any) -> None:
    agent = guest(ETH, A)
    agent.engine.handle(event, agent.now)
    assert agent.engine.deadline() == -inf


def test_work_for_new_addresses_grows_with_their_number_and_no_faster() -> None:
    # An overrun can bring thousands at once.  Calls are counted, because time depends on load.
    def calls(number: int) -> int:
        agent = guest(ETH, A, settings=QUIET._replace(rate_limit=RateLimit(1000.0, 1000)))
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


def test_claim_makes_no_plan_and_no_filter_anew() -> None:
    """Its cost must not depend on the number of addresses: anybody can send 50,000 a second."""
    agent = guest(ETH, *(address(f"10.0.1.{n}/16") for n in range(50)))
    plan, revision = agent.engine.plans[2], agent.engine.revision
    for n in range(50):
        claimed = address(f"10.0.1.{n}/16").address
        agent.engine.handle(ClaimSeen("eth0", claimed, mac(f"02:00:00:00:01:{n:02x}")), agent.now)
        agent.engine.next_frame(agent.now)
    assert agent.engine.conflicts.claims == 50
    assert agent.engine.plans[2] is plan
    assert agent.engine.revision == revision
