"""The kernel's link messages in, failovers out; logs which links are followed.

Does not decide what a failover is (hypervisor.core.bonds) or what is done about it.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_INFO, LEVEL_WARNING, DumpComplete, DumpStarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.hypervisor.core.bonds import BondFailover, FollowedLink
    from garp_agent.hypervisor.core.linkstate import LinkEvent
    from garp_agent.runtime.log import Log

SHOWN = 16  # names of links in a message
ADVICE = "no guest gets a hint or a lease; garp-hint status says what to do"
RECONCILE = 300.0  # seconds between two dumps of all links, even if no message was lost


class LinkFailovers:
    """The netlink socket and the links that are followed.  The caller supplies the time."""

    def __init__(self, names: tuple[str, ...], debounce: float, log: Log) -> None:
        """``names``, ``debounce``: as :class:`Follower` takes them."""
        self.note: Callable[[LinkEvent], None] | None = None  # takes each event too
        self._netlink = Netlink(RECONCILE, LINKS)
        self.follower = Follower(names, debounce)
        self._log = log
        self._overruns = 0
        self._logged: set[str] = set()  # names of the links in the log
        self.is_complete = False  # the first dump has ended
        self.followed: tuple[FollowedLink, ...] = ()  # as of the latest message
        self._version: tuple[int, int] | None = None  # of `followed`

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def read(self, now: float) -> list[BondFailover]:
        """Read what the kernel has sent; return the failovers that are due."""
        return self._handle(self._netlink.read(now), now)

    def advance(self, now: float) -> list[BondFailover]:
        """Ask for a dump if one is due; return the failovers that are due."""
        return self._handle(self._netlink.reconcile(now), now)

    def lose(self, now: float) -> None:
        """Take the latest messages for lost: ask for a dump in a second."""
        self._version = None
        self._netlink.lose(now)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min(self._netlink.deadline(), self.follower.deadline())

    def values(self) -> dict[str, object]:
        """Return the state as plain values, for the status."""
        return {
            "following": [dict(zip(link._fields, link)) for link in self.followed],
            "looked_at": self._names(),
            "netlink_overruns": self._overruns,
            "netlink_undecoded": self._netlink.malformed,
            "wanted": list(self.follower.names),
        }

    def _handle(self, events: list[LinkEvent], now: float) -> list[BondFailover]:
        for event in events:
            self.follower.handle(event, now)
            if self.note is not None:
                self.note(event)
            if isinstance(event, DumpStarted) and event.overrun:
                self._overruns += 1
                self._log.say(LEVEL_WARNING, "netlink-overrun")
            elif isinstance(event, DumpComplete) and not self.is_complete:
                self.is_complete = True
                if not self.follower.is_following:
                    self._log.say(
                        LEVEL_WARNING,
                        "nothing-to-follow",
                        wanted=",".join(self.follower.names) or None,
                        looked_at=",".join(self._names()),
                        advice=ADVICE,
                    )
        failovers = self.follower.advance(now)
        # Most messages concern no followed link: those of the guests' ports.
        if self.is_complete and self._version != self.follower.version:
            self._version = self.follower.version
            self.followed = tuple(self.follower.followed())
            self._log_followed()
        return failovers

    def _names(self) -> list[str]:
        """Return the links of this network namespace, at most SHOWN."""
        return sorted(link.name for link in self.follower.table.links.values())[:SHOWN]

    def _log_followed(self) -> None:
        links = {link.link: link for link in self.followed}
        for name in self._logged - set(links):
            self._log.say(LEVEL_WARNING, "no-longer-following", link=name)
        for name in sorted(set(links) - self._logged):
            link = links[name]
            ports, mode = ",".join(link.ports), link.mode or None
            fields = {"link": name, "kind": link.kind, "mode": mode, "ports": ports}
            self._log.say(LEVEL_INFO, "following", **fields)
        self._logged = set(links)
