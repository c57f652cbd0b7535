"""counters: every frame counts once, by what became of it; forgotten addresses leave nothing."""

from __future__ import annotations

import errno
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.guest.core.counters import Counters
from garp_agent.guest.core.model import (
    Announcement,
    Cause,
    Kind,
    SendOutcome,
    Sent,
)
from tests.world import ip, property_settings

A, B = ip("10.0.0.1"), ip("fd00::1")


def sent(
    address: bytes = A, ifindex: int = 2, cause: Cause = Cause.REFRESH, number: int = 0
) -> Sent:
    frame = Announcement(ifindex, Kind.ARP_REQUEST, b"\2" * 6, address, cause)
    return Sent(frame, SendOutcome.DROPPED if number else SendOutcome.SENT, number)


def test_a_frame_that_went_out() -> None:
    counters = Counters()
    counters.record(sent(cause=Cause.HINT), now=5.0)
    mine = counters.address(2, A)
    assert (counters.sent, counters.sent_by_cause, counters.dropped) == (1, {Cause.HINT: 1}, {})
    assert (mine.sent, mine.last_cause, mine.last_sent, mine.dropped) == (1, Cause.HINT, 5.0, {})


def test_a_frame_that_was_dropped_is_counted_by_errno_and_is_not_the_last_one_sent() -> None:
    counters = Counters()
    counters.record(sent(cause=Cause.START), now=5.0)
    counters.record(sent(number=errno.ENOBUFS), now=6.0)
    counters.record(sent(number=errno.ENOBUFS), now=7.0)
    counters.record(sent(number=errno.ENETDOWN), now=8.0)
    mine = counters.address(2, A)
    assert counters.dropped == mine.dropped == {errno.ENOBUFS: 2, errno.ENETDOWN: 1}
    assert (mine.sent, mine.last_sent, mine.last_cause) == (1, 5.0, Cause.START)


def test_it_is_news_when_an_address_begins_to_fare_otherwise() -> None:
    counters = Counters()
    outcomes = [0, 0, errno.ENOBUFS, errno.ENOBUFS, errno.ENETDOWN, 0, 0]
    news = [counters.record(sent(number=number), now=1.0) for number in outcomes]
    assert news == [False, False, True, False, True, True, False]


def test_the_same_address_on_two_links_is_two_addresses() -> None:
    counters = Counters()
    counters.record(sent(ifindex=2), now=1.0)
    counters.record(sent(ifindex=3), now=2.0)
    assert [counters.address(ifindex, A).sent for ifindex in (2, 3)] == [1, 1]


def test_a_forgotten_address_starts_at_zero_and_the_totals_stay() -> None:
    counters = Counters()
    for address in (A, B):
        counters.record(sent(address), now=1.0)
    counters.keep(2, {B: None})
    assert [counters.address(2, address).sent for address in (A, B)] == [0, 1]
    assert counters.sent == 2


def test_to_keep_nothing_of_a_link_that_was_never_counted_is_no_error() -> None:
    counters = Counters()
    counters.keep(7, ())
    assert counters.sent == 0


def test_a_link_of_which_nothing_is_kept_takes_no_memory() -> None:
    counters = Counters()
    counters.record(sent(), now=1.0)
    counters.keep(2, ())
    assert counters._addresses == {}


frames = st.builds(
    sent,
    st.sampled_from([A, B, b""]),
    st.integers(2, 3),
    st.sampled_from(Cause),
    st.sampled_from([0, errno.ENOBUFS, errno.EAGAIN]),
)


@property_settings(100)
@given(st.lists(st.one_of(frames, st.integers(2, 3)), max_size=40))
def test_the_sums_agree_with_a_list_of_all_frames(steps: list[Sent | int]) -> None:
    counters = Counters()
    log: list[Sent] = []
    lately: list[Sent] = []
    for step in steps:
        if isinstance(step, int):
            counters.keep(step, (A,))
            gone = (B, b"")
            lately = [
                each
                for each in lately
                if not (each.announcement.ifindex == step and each.announcement.address in gone)
            ]
        else:
            counters.record(step, now=1.0)
            log.append(step)
            lately.append(step)
    assert counters.sent == sum(not each.errno for each in log)
    assert counters.sent == sum(counters.sent_by_cause.values())
    assert counters.dropped == Counter(each.errno for each in log if each.errno)
    for ifindex in (2, 3):
        for address in (A, B, b""):
            where = (ifindex, address)
            mine = [e for e in lately if (e.announcement.ifindex, e.announcement.address) == where]
            found = counters.address(ifindex, address)
            assert found.sent == sum(not each.errno for each in mine)
            assert found.dropped == Counter(each.errno for each in mine if each.errno)
