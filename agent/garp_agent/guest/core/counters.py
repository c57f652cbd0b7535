"""Counts sent and dropped frames: in all, and for each address that is announced now.

When an address is no longer announced, its counters are deleted.  The totals stay.
"""

from __future__ import annotations

from garp_agent.guest.core.model import (
    Cause,
    SendOutcome,
    Sent,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


class AddressCounters:
    """The frames of one address on one link."""

    __slots__ = ("dropped", "last_cause", "last_errno", "last_sent", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.dropped: dict[int, int] = {}  # by errno
        self.last_cause: Cause | None = None
        self.last_errno = 0  # 0: the last frame was sent
        self.last_sent: float | None = None  # seconds, monotonic


class Counters:
    """All frames since the start, and those of the addresses announced now."""

    __slots__ = ("_addresses", "dropped", "sent", "sent_by_cause")

    def __init__(self) -> None:
        self.sent = 0
        self.sent_by_cause: dict[Cause, int] = {}
        self.dropped: dict[int, int] = {}  # by errno
        self._addresses: dict[int, dict[bytes, AddressCounters]] = {}

    def record(self, event: Sent, now: float) -> bool:
        """Count one frame; return whether its errno differs from the previous frame's."""
        frame = event.announcement
        known = self._addresses.get(frame.ifindex, {})
        mine = known.get(frame.address)  # the usual case, without a call
        if mine is None:
            is_ours = frame.cause is not Cause.PROXY_TEST
            mine = self.address(frame.ifindex, frame.address) if is_ours else AddressCounters()
        is_news = mine.last_errno != event.errno
        mine.last_errno = event.errno
        if event.outcome is not SendOutcome.SENT:
            for dropped in (self.dropped, mine.dropped):
                dropped[event.errno] = dropped.get(event.errno, 0) + 1
            return is_news
        cause = frame.cause
        self.sent += 1
        self.sent_by_cause[cause] = self.sent_by_cause.get(cause, 0) + 1
        mine.sent += 1
        mine.last_cause = cause
        mine.last_sent = now
        return is_news

    def address(self, ifindex: int, address: bytes) -> AddressCounters:
        """Return the counters of one address, with zeros if nothing was sent yet."""
        known = self._addresses.setdefault(ifindex, {})
        if address not in known:
            known[address] = AddressCounters()
        return known[address]

    def keep(self, ifindex: int, addresses: Container[bytes]) -> None:
        """Delete the counters of the addresses of a link that are not among ``addresses``."""
        known = self._addresses.get(ifindex, {})
        for address in [each for each in known if each not in addresses]:
            del known[address]
        if not known:
            self._addresses.pop(ifindex, None)
