"""The events and values that both daemons know.

Times are seconds of the monotonic clock, as floats.
"""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple

# Interface flags, <linux/if.h>.
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000


class LinkGone(NamedTuple):
    """A link was deleted, or left this network namespace."""

    ifindex: int


class DumpStarted(NamedTuple):
    """From here on the kernel tells everything anew; nothing is known to be gone yet."""

    overrun: bool = False  # events were lost (ENOBUFS), which is why


class DumpComplete(NamedTuple):
    """The kernel has told everything since :class:`DumpStarted`; what it did not name is gone."""


class Errno(int):
    """An error number among the fields of a notice; the edge writes its name (errno(3))."""

    __slots__ = ()


class Notice(NamedTuple):
    """Something an operator may want to read; the edge turns it into a line of log."""

    level: int  # a LEVEL_* below
    event: str  # a stable name, words joined by hyphens: "link-announced"
    fields: tuple[tuple[str, object], ...] = ()  # bytes of 4, 6 or 16 are addresses


# syslog levels, RFC 5424 section 6.2.1, as <N> prefixes for journald.
LEVEL_ERROR = 3
LEVEL_WARNING = 4
LEVEL_NOTICE = 5
LEVEL_INFO = 6
LEVEL_DEBUG = 7
