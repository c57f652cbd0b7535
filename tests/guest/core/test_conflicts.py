"""Claims to our addresses: what is withheld, for how long, and what is said of it."""

from __future__ import annotations

from garp_agent.config.settings import Conflict, ConflictPolicy, Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.frames import Claim, decode, encode
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    Announcement,
    BurstRequested,
    Cause,
    ClaimSeen,
    InterfaceAddress,
    Kind,
    Link,
    LinkSeen,
)
from garp_agent.wire.model import (
    IFF_LOWER_UP,
    IFF_UP,
    DumpComplete,
    DumpStarted,
)

MAC = bytes.fromhex("02 00 5e 00 53 10")
OTHER_MAC = bytes.fromhex("02 00 5e 00 53 11")
RIVAL = bytes.fromhex("02 00 5e 00 53 01")
MINE = InterfaceAddress(2, bytes([192, 0, 2, 10]), 24)
SECOND = InterfaceAddress(2, bytes([192, 0, 2, 11]), 24)
MINE6 = InterfaceAddress(2, bytes.fromhex("20010db8000000000000000000000010"), 64)
ETH0 = Link(2, "eth0", MAC, 1, IFF_UP | IFF_LOWER_UP)
ETH1 = Link(3, "eth1", OTHER_MAC, 1, IFF_UP | IFF_LOWER_UP)


def started(policy: ConflictPolicy, hold_off: float = 60.0) -> Engine:
    """An engine whose start is over: the next refresh is far away."""
    settings = Settings(interval=1000.0, jitter=0.0, conflict=Conflict(policy, hold_off))
    engine = Engine(settings, lambda: 0.5)
    for event in (DumpStarted(), LinkSeen(ETH0), LinkSeen(ETH1)):
        engine.handle(event, 0.0)
    for address in (MINE, SECOND, MINE6):
        engine.handle(AddressSeen(address), 0.0)
    engine.handle(DumpComplete(), 0.0)
    for now in (0.0, 0.1, 0.4):
        frames_of(engine, now)
    engine.notices.take()
    return engine


def frames_of(engine: Engine, now: float) -> list[Announcement]:
    """Everything that is to be sent now."""
    frames = []
    while (frame := engine.next_frame(now)) is not None:
        frames.append(frame)
    return frames


def claim(engine: Engine, now: float, address: bytes = MINE.address, mac: bytes = RIVAL) -> None:
    engine.handle(ClaimSeen("eth0", address, mac), now)


def burst(engine: Engine, now: float) -> dict[bytes, list[Announcement]]:
    """The frames of one burst, by address."""
    engine.handle(BurstRequested(Cause.HINT, (0.0,)), now)
    found: dict[bytes, list[Announcement]] = {}
    for frame in frames_of(engine, now):
        found.setdefault(frame.address, []).append(frame)
    return found


def test_a_claimed_address_is_only_probed_and_the_others_go_on() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0)
    assert frames_of(engine, 10.0) == []
    frames = burst(engine, 11.0)
    assert [frame.kind for frame in frames[MINE.address]] == [Kind.ARP_PROBE]
    assert [frame.kind for frame in frames[SECOND.address]] == [Kind.ARP_REQUEST]
    assert [frame.kind for frame in frames[MINE6.address]] == [Kind.UNSOLICITED_NA]


def test_a_claimed_ipv6_address_becomes_frames_that_claim_nothing() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0, MINE6.address)
    frames = burst(engine, 11.0)
    rarp, probe = frames[MINE6.address]  # counted for the address, which the first does not name
    assert (rarp.kind, rarp.hardware_address) == (Kind.RARP, MAC)
    assert MINE6.address not in encode(rarp)
    assert decode(encode(probe)) == Claim(MAC, MINE6.address, probe=True)


def test_the_hold_off_runs_from_the_last_claim_and_ends_with_an_announcement() -> None:
    engine = started(ConflictPolicy.YIELD, hold_off=60.0)
    claim(engine, 10.0)
    claim(engine, 40.0)
    frames_of(engine, 40.0)
    assert engine.deadline() == 100.0
    assert frames_of(engine, 99.0) == []
    frames = frames_of(engine, 100.0)
    assert [(f.address, f.kind, f.cause) for f in frames] == [
        (MINE.address, Kind.ARP_REQUEST, Cause.ADDRESS_ADDED)
    ]


def test_each_rival_is_news_once() -> None:
    engine = started(ConflictPolicy.YIELD)
    another = b"\2" + RIVAL[1:5] + b"\7"
    for now, mac in ((10.0, RIVAL), (11.0, RIVAL), (21.0, another)):
        claim(engine, now, mac=mac)
    assert news(engine) == [RIVAL, another]
    assert engine.conflicts.claims == 3


def test_rivals_without_end_are_news_now_and_then() -> None:
    engine = started(ConflictPolicy.YIELD)
    for number in range(1000):
        claim(engine, 10.0 + number / 40, mac=b"\2" + number.to_bytes(5, "big"))
    assert len(news(engine)) == 3  # in 25 s
    assert engine.conflicts.claims == 1000


def news(engine: Engine) -> list[object]:
    notices = [n for n in engine.notices.take() if n.event == "address-conflict"]
    return [dict(n.fields)["claimed_by"] for n in notices]


def test_other_settings_give_no_withheld_address_back() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0)
    engine.reconfigure(engine.settings._replace(interval=7.0), 11.0)
    assert [f.kind for f in burst(engine, 12.0)[MINE.address]] == [Kind.ARP_PROBE]
    engine.reconfigure(engine.settings._replace(conflict=Conflict(ConflictPolicy.WARN)), 13.0)
    assert [f.kind for f in burst(engine, 14.0)[MINE.address]] == [Kind.ARP_REQUEST]


def test_warn_goes_on_announcing() -> None:
    engine = started(ConflictPolicy.WARN)
    claim(engine, 10.0)
    assert [f.kind for f in burst(engine, 11.0)[MINE.address]] == [Kind.ARP_REQUEST]
    assert [n.event for n in engine.notices.take()][:1] == ["address-conflict"]


def test_defend_answers_at_most_every_ten_seconds() -> None:
    engine = started(ConflictPolicy.DEFEND)
    answers = []
    for now in (10.0, 11.0, 19.9, 20.0, 29.0, 30.1):
        claim(engine, now)
        answers += [(now, frame.address, frame.cause) for frame in frames_of(engine, now)]
    assert answers == [(now, MINE.address, Cause.DEFENCE) for now in (10.0, 20.0, 30.1)]


def test_our_own_frames_and_claims_to_others_are_none() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0, mac=MAC)  # came back through a loop
    claim(engine, 10.0, mac=OTHER_MAC)  # our other link on the same network
    claim(engine, 10.0, address=bytes([192, 0, 2, 99]))
    engine.handle(ClaimSeen("eth1", MINE.address, RIVAL), 10.0)  # another network
    assert engine.conflicts.claims == 0
    assert engine.notices.take() == []


def test_an_address_that_left_takes_its_rivals_along() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0)
    engine.handle(AddressGone(MINE), 11.0)
    frames_of(engine, 11.0)
    assert engine.conflicts.rivals == {}
    engine.handle(AddressSeen(MINE), 12.0)
    assert [f.kind for f in frames_of(engine, 12.0)] == [Kind.ARP_REQUEST]


def test_another_policy_takes_over_at_once() -> None:
    engine = started(ConflictPolicy.YIELD)
    claim(engine, 10.0)
    frames_of(engine, 10.0)
    engine.reconfigure(engine.settings._replace(conflict=Conflict(ConflictPolicy.WARN)), 11.0)
    assert [(f.address, f.kind) for f in frames_of(engine, 11.0)] == [
        (MINE.address, Kind.ARP_REQUEST)
    ]
