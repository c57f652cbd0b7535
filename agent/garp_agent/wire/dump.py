"""Mark and sweep: what a netlink dump says of things that live events speak of as well.

A dump and the live events arrive on one netlink socket.  Recent kernels do not hold changes
up while they dump, so a dump can name what a live event has already removed (rtnetlink(7)).
Live events are therefore right from the start of a dump on, and the dump is ignored for
everything that they named.  What neither named since the start is gone.  A dump that is never
completed removes nothing.

Does not keep the things themselves: a fold (guest.core.inventory, hypervisor.core.bonds) does.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from typing import TypeVar

    Key = TypeVar("Key", bound=Hashable)


class DumpMarks:
    """The marks of one fold.  Keys are the fold's own: an ifindex, an address, ..."""

    __slots__ = ("_live", "_seen")

    def __init__(self) -> None:
        self._seen: set[object] | None = None  # named since the start; None: no dump under way
        self._live: set[object] = set()  # named by live events since the start

    def start(self) -> None:
        """Begin a dump.  One that was under way is given up."""
        self._seen = set()
        self._live.clear()

    def seen(self, key: object, dumped: bool) -> bool:
        """Mark ``key`` as present; return whether to believe the message.

        False: a dump says it (``dumped``), and a live event has spoken of ``key`` since the start.
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
        """Note that a live event removed ``key``: the dump may still name it."""
        if self._seen is not None:
            self._live.add(key)
            self._seen.discard(key)

    def is_live(self, key: object) -> bool:
        """Return whether a live event has named ``key`` since the start of the dump."""
        return key in self._live

    def sweep(self, known: Iterable[Key]) -> list[Key]:
        """End the dump; return those of ``known`` that are gone."""
        if self._seen is None:
            return []
        gone = [key for key in known if key not in self._seen]
        self._seen = None
        self._live.clear()
        return gone
