"""counters: each frame counts once, by its outcome, in all and for its address."""

from __future__ import annotations

import errno

from garp_agent.guest.core.counters import Counters
from garp_agent.guest.core.model import Announcement, Cause, Kind, SendOutcome, Sent
from tests.world import ip

A, B = ip("10.0.0.1"), ip("fd00::1")


def sent(
    address: bytes = A, ifindex: int = 2, cause: Cause = Cause.REFRESH, number: int = 0
) -> Sent:
    frame = Announcement(ifindex, Kind.ARP_REQUEST, b"\2" * 6, address, cause)
    return Sent(frame, SendOutcome.DROPPED if number else SendOutcome.SENT, number)


def test_record_sent_and_dropped_frames_counts_by_cause_and_errno() -> None:
    counters = Counters()
    counters.record(sent(cause=Cause.START), now=4.0)
    counters.record(sent(cause=Cause.HINT), now=5.0)
    counters.record(sent(number=errno.ENOBUFS), now=6.0)
    counters.record(sent(number=errno.ENOBUFS), now=7.0)
    counters.record(sent(number=errno.ENETDOWN), now=8.0)
    mine = counters.address(2, A)
    assert counters.dropped == mine.dropped == {errno.ENOBUFS: 2, errno.ENETDOWN: 1}
    assert counters.sent_by_cause == {Cause.START: 1, Cause.HINT: 1}
    assert counters.sent == mine.sent == 2
    assert (mine.last_cause, mine.last_sent) == (Cause.HINT, 5.0)


def test_record_errno_other_than_before_is_news() -> None:
    counters = Counters()
    outcomes = [0, 0, errno.ENOBUFS, errno.ENOBUFS, errno.ENETDOWN, 0, 0]
    news = [counters.record(sent(number=number), now=1.0) for number in outcomes]
    assert news == [False, False, True, False, True, True, False]


def test_record_same_address_on_two_links_counts_apart() -> None:
    counters = Counters()
    for ifindex in (2, 3, 3):
        counters.record(sent(ifindex=ifindex), now=1.0)
    assert [counters.address(ifindex, A).sent for ifindex in (2, 3)] == [1, 2]


def test_keep_forgets_other_addresses_of_the_link_and_no_totals() -> None:
    counters = Counters()
    for address in (A, B, b""):
        counters.record(sent(address), now=1.0)
    counters.record(sent(ifindex=3), now=1.0)
    counters.keep(2, {B})
    assert [counters.address(2, address).sent for address in (A, B, b"")] == [0, 1, 0]
    assert (counters.address(3, A).sent, counters.sent) == (1, 4)


def test_keep_nothing_leaves_no_memory_of_the_link() -> None:
    counters = Counters()
    counters.record(sent(), now=1.0)
    for ifindex in (2, 7):  # nothing was counted on link 7
        counters.keep(ifindex, ())
    assert counters._addresses == {}
