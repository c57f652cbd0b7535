"""Searches for guests again and again: their channels, their monitors, and their cards.

Logs what the operator should know of a search, once.  Does not decide when to search or what
follows from what was found: the daemon and hypervisor.core.watcher do.
"""

from __future__ import annotations

from garp_agent.hypervisor.io.channels import Finder
from garp_agent.hypervisor.io.libvirt_cards import LibvirtCards
from garp_agent.hypervisor.io.xenstore import xen_cards
from garp_agent.wire.model import LEVEL_WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garp_agent.hypervisor.core.guests import Channel
    from garp_agent.hypervisor.io.libvirt_cards import LibvirtCard
    from garp_agent.hypervisor.options import WatchOptions
    from garp_agent.runtime.log import Log


class GuestSearch:
    """What was found last.  ``monitors``: patterns of sockets of QEMU monitors."""

    def __init__(self, options: WatchOptions, monitors: Sequence[str], log: Log) -> None:
        self._log = log
        self._channel_finder = Finder(options.port, options.channels, options.libvirt_status)
        self._monitor_finder = Finder("", monitors)
        self._card_files = LibvirtCards(options.libvirt_status)
        self._xen_cards: list[Channel] = []  # as xenstore said last
        self._trouble = ""  # as logged
        self._refused: dict[str, str] = {}
        self.cards: list[LibvirtCard] = []  # of libvirt's guests

    def channels(self) -> list[Channel]:
        """Search for the channels of guests."""
        return self._channel_finder.find()

    def read_cards(self) -> list[LibvirtCard]:
        """Read the cards of libvirt's guests."""
        self.cards = self._card_files.read()
        return self.cards

    def monitors(self) -> list[Channel]:
        """Search for what announces a guest instead of it: QEMU monitors, and cards of Xen."""
        found = xen_cards()
        self._xen_cards = self._xen_cards if found is None else found
        return [*self._xen_cards, *self._monitor_finder.find()]

    def log_news(self) -> None:
        """Log what is new: at most one socket a search, because users can make any number."""
        trouble = self._channel_finder.trouble
        if trouble and trouble != self._trouble:
            self._log.say(LEVEL_WARNING, "guests-not-listed", reason=trouble)
        refused = {**self._channel_finder.refused, **self._monitor_finder.refused}
        new = [path for path in refused if self._refused.get(path) != refused[path]]
        if new:
            more = len(new) - 1 or None
            self._log.say(
                LEVEL_WARNING, "channel-refused", path=new[0], reason=refused[new[0]], more=more
            )
        self._trouble, self._refused = trouble, refused

    def close(self) -> None:
        """Close the sockets of the searches."""
        self._channel_finder.close()
        self._monitor_finder.close()
