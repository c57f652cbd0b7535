"""All known guests, and when to contact each: for its state, and to give or renew its lease.

Does not decide what one contact says (hypervisor.core.guests) and opens no socket.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import Call, Exchange
from garp_agent.hypervisor.core.guests import Guest
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARNING, Errno
from garp_agent.wire.protocol import encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from garp_agent.hypervisor.core.exchange import Result
    from garp_agent.hypervisor.core.guests import Channel
    from garp_agent.wire.notices import Notices

CONTACT, REVOCATION = "contact", "revocation"  # kinds of calls
HINT_DELAY = 0.1  # seconds for which a contact waits for the outcome of a hint, and again


class Contacts:
    """The guests by path.  The caller supplies the time."""

    def __init__(
        self, lease: float, boot: str, random: Callable[[], float], notices: Notices
    ) -> None:
        """``lease``: seconds; 0 for none.  ``boot``: a name for this run of the watcher.

        ``random``: returns 0 to 1.
        """
        self.guests: dict[str, Guest] = {}
        self._lease = lease
        self._boot = boot
        self._random = random
        self._notices = notices
        self._may_promise = False
        self._count = 0
        self._next = inf  # no guest has an earlier next_contact

    def found(self, channels: Iterable[Channel], now: float) -> None:
        """Take in the channels that exist now: forget other guests, contact new ones.

        Another socket at the same path is another guest, or a guest that was started anew.
        """
        there = {channel.path: channel for channel in channels}
        for path, guest in list(self.guests.items()):
            if path not in there or there[path].file != guest.channel.file:
                del self.guests[path]
                self._notices.say(LEVEL_INFO, "guest-gone", guest=guest.channel.guest)
        for path, channel in there.items():
            if path not in self.guests:
                self.guests[path] = Guest(channel, now)
                self._next = now
                self._notices.say(LEVEL_INFO, "guest-found", guest=channel.guest, path=path)

    def promise(self, may_promise: bool, now: float) -> None:
        """Say whether leases may be promised.  A change is told to all guests at once."""
        if may_promise == self._may_promise:
            return
        self._may_promise = may_promise
        for guest in self.guests.values():
            guest.next_contact = now
            self._next = now

    @property
    def promised(self) -> float:
        """Return the seconds of the leases that are promised now; 0 for none."""
        return self._lease if self._may_promise else 0.0

    def advance(self, now: float, hinted: Container[str]) -> list[Call]:
        """Return the contacts that are due, except with guests in ``hinted`` (paths)."""
        if now < self._next:
            return []
        calls = []
        self._next = inf
        for path, guest in self.guests.items():
            if guest.next_contact <= now and path not in hinted:
                self._count += 1
                exchange = guest.begin_contact(self.promised, f"{self._boot}-{self._count}", now)
                calls.append(Call(path, exchange, CONTACT))
            elif guest.next_contact < inf:
                self._next = min(self._next, max(guest.next_contact, now + HINT_DELAY))
        return calls

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return self._next

    def ended(self, result: Result, now: float) -> None:
        """Take in the result of any call to a guest."""
        guest = self.guests.get(result.call.path)
        if guest is None:
            return
        self._note_outcome(guest, result)
        if result.call.kind == CONTACT:
            guest.end_contact(result, self.promised, self._lease, self._random(), now)
        elif guest.next_contact == inf:  # a hint has cancelled a contact
            guest.next_contact = now
        self._next = min(self._next, guest.next_contact)

    def revoke_leases(self, now: float) -> list[Call]:
        """Return the calls that revoke the leases of all guests."""
        request = {"bye": encode_request("lease", {"seconds": 0}, "bye")}
        return [
            Call(path, Exchange(request), REVOCATION)
            for path, guest in self.guests.items()
            if guest.lease.may_be_held(now)
        ]

    def _note_outcome(self, guest: Guest, result: Result) -> None:
        before, outcome = guest.outcome, result.outcome
        guest.outcome, guest.errno = outcome, result.errno
        if guest.answers:
            guest.failures = 0
        if before is not outcome:
            lost = bool(guest.version) and not guest.answers
            expected = before is None and guest.answers
            level = LEVEL_WARNING if lost else LEVEL_DEBUG if expected else LEVEL_INFO
            self._notices.say(
                level,
                "guest-state",
                guest=guest.channel.guest,
                state=outcome.value,
                errno=Errno(result.errno) if result.errno else None,
            )
