"""Mark and sweep: combines a netlink dump with the live events that arrive during it.

A dump and the live events arrive on one netlink socket.  The kernel does not stop changes while
it dumps, so a dump can name what a live event has already removed (rtnetlink(7)).  Therefore a
live event overrules the dump, from the start of the dump on.  What neither of them named since
the start is gone.  A dump that never completes removes nothing.

Keeps only the marks; guest.core.inventory and hypervisor.core.bonds keep the things.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.wire.record import T


class DumpMarks:
    """The marks of one dump.  Keys are any hashable values: an ifindex, an address, ..."""

    __slots__ = ("_live", "_seen")

    def __init__(self) -> None:
        self._seen: set[object] | None = None  # named since the start; None: no dump under way
        self._live: set[object] = set()  # named by live events since the start

    @property
    def is_under_way(self) -> bool:
        """Whether a dump was started and neither completed nor abandoned."""
        return self._seen is not None

    def start(self) -> None:
        """Begin a dump; abandon the one under way."""
        self._seen = set()
        self._live.clear()

    def seen(self, key: object, dumped: bool) -> bool:
        """Mark ``key`` as present; return whether to believe the message that names it.

        ``dumped``: the message is part of the dump.  Such a message is not to be believed if a
        live event has named ``key`` since the start.
        """
        if self._seen is None:
            return True
        if not dumped:
            self._live.add(key)
        elif key in self._live:
            return False
        self._seen.add(key)
        return True

    def removed(self, key: object) -> None:
        """Note that a live event removed ``key``; the dump can still name it."""
        if self._seen is not None:
            self._live.add(key)
            self._seen.discard(key)

    def is_live(self, key: object) -> bool:
        """Return whether a live event has named ``key`` since the start of the dump."""
        return key in self._live

    def sweep(self, known: Iterable[T]) -> list[T]:
        """End the dump; return those of ``known`` that are gone."""
        if self._seen is None:
            return []
        gone = [key for key in known if key not in self._seen]
        self._seen = None
        self._live.clear()
        return gone
