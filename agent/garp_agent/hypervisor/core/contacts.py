"""All known guests, and when to contact each: for its state, and to give or renew its lease.

Does not decide what one contact says (hypervisor.core.guests) or whose path is followed
(hypervisor.core.lease_paths), and opens no socket.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import Call, Exchange
from garp_agent.hypervisor.core.guests import Guest
from garp_agent.hypervisor.core.lease_paths import LOOKING
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO, LEVEL_NOTICE, LEVEL_WARNING, Errno
from garp_agent.wire.protocol import encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.exchange import Result
    from garp_agent.hypervisor.core.guests import Channel
    from garp_agent.hypervisor.core.hints import HintWriter
    from garp_agent.hypervisor.core.lease_paths import Paths
    from garp_agent.wire.notices import Notices

CONTACT, REVOCATION = "contact", "revocation"  # kinds of calls
HINT_DELAY = 0.1  # seconds for which a contact waits for the outcome of a hint, and again
FIRST_SPREAD = 2.0  # seconds for the first bursts of guests found together; less than an interval


class Contacts:
    """The guests by path.  The caller supplies the time."""

    def __init__(
        self,
        lease: float,
        paths: Paths,
        writer: HintWriter,
        random: Callable[[], float],
        notices: Notices,
    ) -> None:
        """``lease``: seconds; 0 for none.  ``random``: returns 0 to 1."""
        self.guests: dict[str, Guest] = {}
        self._lease = lease
        self._paths = paths
        self._writer = writer
        self._random = random
        self._notices = notices
        self._unfollowed: dict[str, str] = {}  # why some get no lease, by path, as logged
        self._without_path: set[str] = set()  # paths of guests that can get no lease now
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
                self._without_path.discard(path)
                self._notices.say(LEVEL_INFO, "guest-gone", guest=guest.channel.guest)
        for path, channel in there.items():
            if path not in self.guests:
                self.guests[path] = Guest(channel, self._writer.number(), now)
                self._next = now
                self._notices.say(LEVEL_INFO, "guest-found", guest=channel.guest, path=path)
        self.paths_changed(now)

    def paths_changed(self, now: float) -> None:
        """Contact guests whose paths are followed now and work, and those for which that ended."""
        for path, guest in self.guests.items():
            had_path = path not in self._without_path
            lease_at = self._lease_at(guest)
            if had_path and lease_at == inf and guest.lease.may_be_held(now):
                guest.next_contact = now
            elif not had_path and lease_at < inf and guest.answers:
                guest.expect_lease(lease_at, self._random(), now)
            self._next = min(self._next, guest.next_contact)
        self._log_unfollowed()

    def end_leases(self, guests: Iterable[Guest], now: float) -> None:
        """Contact those of these guests at once that can have a lease, to revoke it."""
        for guest in guests:
            if guest.lease.may_be_held(now) and guest.next_contact < inf:
                guest.next_contact = self._next = now

    @property
    def promised(self) -> float:
        """Return the seconds of the leases that are promised now; 0 for none."""
        return self._lease if self._paths.is_following else 0.0

    def why_no_lease(self, guest: Guest, now: float) -> str:
        """Return why a guest has no lease, for the operator; "" if it has one."""
        if guest.lease.remaining(now):
            return ""
        if not self._lease:
            return "leases are off"
        if not guest.answers:
            return "it does not answer"
        if guest.refreshes_too_often:
            return f"it refreshes every {guest.longest_interval:g} s, too often for a lease"
        refusal = self._paths.refusal(guest, now)
        return refusal or guest.lease.why_ended(now) or "not given yet"

    def advance(self, now: float, is_awaited: Callable[[str], bool]) -> list[Call]:
        """Return the contacts that are due.

        ``is_awaited``: takes a path; a guest whose reply to a hint is awaited is left alone.
        """
        if now < self._next:
            return []
        due = []
        self._next = inf
        for path, guest in self.guests.items():
            if guest.next_contact <= now and not is_awaited(path):
                due.append(guest)
            elif guest.next_contact < inf:
                self._next = min(self._next, max(guest.next_contact, now + HINT_DELAY))
        return self._contacts(due, now)

    def _contacts(self, guests: list[Guest], now: float) -> list[Call]:
        new = sorted((each for each in guests if not each.is_met), key=lambda each: each.is_silent)
        delays = dict(zip(new, self._writer.delays(new, now, FIRST_SPREAD)))
        calls = []
        for guest in guests:
            self._count += 1
            serial = f"{self._writer.boot}-{self._count}"
            wanted = self._lease if now >= self._lease_at(guest) else 0.0
            delay = delays.get(guest, 0.0)
            exchange = guest.begin_contact(self._writer, wanted, serial, delay, now)
            calls.append(Call(guest.channel.path, exchange, CONTACT))
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
        renewal = guest.take_replies(result, self._lease, now)
        if result.call.kind == CONTACT:
            lease_at = self._lease_at(guest) if self._lease else inf
            guest.end_contact(result, renewal, lease_at, self._random(), now)
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

    def _lease_at(self, guest: Guest) -> float:
        """Return when the guest may get a lease, and note whether it may get one at all."""
        lease_at = inf if guest.refreshes_too_often else self._paths.lease_at(guest)
        if lease_at == inf:
            self._without_path.add(guest.channel.path)
        else:
            self._without_path.discard(guest.channel.path)
        return lease_at

    def _log_unfollowed(self) -> None:
        """Log the guests whose failovers can be missed, each once."""
        before, self._unfollowed = self._unfollowed, {}
        for path, guest in self.guests.items():
            reason = self._paths.of(guest).unfollowed
            if reason and reason != LOOKING:
                self._unfollowed[path] = reason
                if before.get(path) != reason:
                    name = guest.channel.guest
                    self._notices.say(LEVEL_NOTICE, "no-lease", guest=name, reason=reason)

    def _note_outcome(self, guest: Guest, result: Result) -> None:
        before, outcome = guest.outcome, result.outcome
        guest.outcome, guest.errno = outcome, result.errno
        if guest.answers:
            guest.failures = 0
        if before is not outcome:
            lost = guest.has_agent and not guest.answers
            expected = before is None and guest.answers
            level = LEVEL_WARNING if lost else LEVEL_DEBUG if expected else LEVEL_INFO
            self._notices.say(
                level,
                "guest-state",
                guest=guest.channel.guest,
                state=outcome.value,
                errno=Errno(result.errno) if result.errno else None,
            )
