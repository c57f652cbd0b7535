"""Events and values that both daemons know.

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
    """The kernel starts to name everything; nothing is known to be gone yet."""

    overrun: bool = False  # the reason: events were lost (ENOBUFS)


class DumpComplete(NamedTuple):
    """The kernel has named everything since :class:`DumpStarted`; the rest is gone."""


class DumpPartial(NamedTuple):
    """The dump is over, but changes interrupted it: what it did not name may still exist."""


class Errno(int):
    """An error number in the fields of a notice; the log writes its name (errno(3))."""

    __slots__ = ()


class Notice(NamedTuple):
    """Something that an operator may want to read; runtime.log makes a line of it."""

    level: int  # a LEVEL_* below
    event: str  # a stable name, words joined by hyphens: "link-announced"
    fields: tuple[tuple[str, object], ...] = ()  # bytes of length 4, 6 or 16 are addresses


# Levels as in syslog (RFC 5424 section 6.2.1), which journald reads from a prefix <N>.
LEVEL_ERROR = 3
LEVEL_WARNING = 4
LEVEL_NOTICE = 5
LEVEL_INFO = 6
LEVEL_DEBUG = 7
