"""Contact with one guest: its channel, its state, its lease, and when to talk to it next.

Does not decide when a hint is sent (hypervisor.core.hint_rounds) and opens no socket.  A guest is
not trusted: each value in a reply is checked for type and range before it is used.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import REPLIED, Exchange, Outcome, Result
from garp_agent.hypervisor.core.lease import LEASE_LEAST, PromisedLease
from garp_agent.wire.protocol import encode_request, is_plain
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.hypervisor.core.hints import HintWriter

CHECK_INTERVAL = 60.0  # seconds between contacts with a guest that answers and has no lease
LEASE_SPREAD = 30.0  # seconds in which guests get leases after a time without them
INFO_INTERVAL = 300.0  # seconds for which the version and the MACs of a guest are believed
RETRY_MOST = 60.0  # seconds between contacts with a guest that does not answer, at most
VERSION_LIMIT = 32  # characters kept of a guest's version
MACS_MOST = 256  # kept of one guest
FIRST_REASON = "first contact of garp-hint"


class Channel(NamedTuple):
    """The socket through which a guest is reached."""

    guest: str  # name
    path: str
    file: tuple[int, int] = (0, 0)  # device and inode of the socket's file: its identity


class Guest:
    """One guest, and what is known of it."""

    __slots__ = (
        "answered",
        "channel",
        "errno",
        "failures",
        "first_number",
        "hints",
        "is_met",
        "last_seconds",
        "lease",
        "longest_interval",
        "macs",
        "next_contact",
        "next_info",
        "outcome",
        "slowest_seconds",
        "version",
    )

    def __init__(self, channel: Channel, first_number: int, now: float) -> None:
        """``first_number``: of the hint with which the first contact begins."""
        self.channel = channel
        self.first_number = first_number
        self.is_met = False  # it has answered a hint of this run of the watcher
        self.outcome: Outcome | None = None  # of the last call; None: no call has ended yet
        self.errno = 0  # of that call, if a system call failed
        self.version = ""  # of the agent; "": it has never answered
        self.macs: frozenset[bytes] = frozenset()  # of its links, as the agent says
        self.longest_interval = inf  # seconds between refreshes, as the agent says
        self.next_info = now  # when to ask for them again: a card can be plugged in
        self.lease = PromisedLease()
        self.next_contact = now  # inf: a contact is under way
        self.failures = 0  # calls without a reply, in a row
        self.hints = 0  # sent to this guest, without repetitions
        self.answered = 0  # hints
        self.last_seconds: float | None = None  # from the failover to the reply, the last time
        self.slowest_seconds: float | None = None

    @property
    def answers(self) -> bool:
        """Return whether the agent replied to the last call."""
        return self.outcome in REPLIED

    @property
    def is_silent(self) -> bool:
        """Return whether no agent has ever answered, although it was asked."""
        return not self.has_agent and self.outcome not in (None, Outcome.BUSY)

    @property
    def has_agent(self) -> bool:
        """Return whether an agent has answered some call."""
        return self.is_met or bool(self.version)

    @property
    def refreshes_too_often(self) -> bool:
        """Return whether a lease would be too short to be renewed in time."""
        return self.longest_interval < LEASE_LEAST

    def begin_contact(
        self, writer: HintWriter, wanted: float, serial: str, delay: float, now: float
    ) -> Exchange:
        """Return what to ask now.

        The first contact is a hint, because there may have been a failover while no watcher ran.
        Repeated without a reply, it keeps its number.  ``wanted``: seconds of the lease.
        ``serial``: part of the ids.  ``delay``: seconds before the burst of the first contact.
        """
        self.next_contact = inf
        requests: dict[str, bytes] = {}
        if not self.is_met:
            requests.update(writer.requests(self, self.first_number, FIRST_REASON, delay, now))
        else:
            # Not longer than a refresh can be away without a lease: this host may die.
            wanted = min(wanted, self.longest_interval)
            seconds = self.lease.to_send(wanted, self.answers, now)
            if seconds is not None:
                id = f"lease-{serial}" if seconds else f"bye-{serial}"
                requests[id] = encode_request("lease", {"seconds": seconds}, id)
        if not requests or now >= self.next_info:
            id = f"info-{serial}"
            requests[id] = encode_request("info", None, id, delimited=not requests)
        return Exchange(requests)

    def take_replies(self, result: Result, most: float, now: float) -> float:
        """Take in the replies of any call; return the seconds until the lease is renewed, or 0.

        ``most``: seconds of a lease.
        """
        renewal = 0.0
        for id, reply in result.call.exchange.replies.items():
            if id.startswith("hint-"):
                self.is_met = self.is_met or not reply.error_class
            elif id.startswith("info-"):
                self.version = _version_in(reply.value)
                self.macs = macs_in(reply.value)
                self.longest_interval = _longest_interval_in(reply.value)
                self.next_info = now + INFO_INTERVAL
            elif id.startswith("lease-"):
                renewal = self.lease.confirm(reply, most, now)
            else:
                self.lease.confirm(reply, 0.0, now)
        return renewal

    def end_contact(
        self, result: Result, renewal: float, lease_at: float, random: float, now: float
    ) -> None:
        """Set the time of the next contact, after :meth:`take_replies`.

        ``renewal``: what that returned.  ``lease_at``: when the guest may get a lease.
        ``random``: 0 to 1; it spreads the contacts, so that guests that were found together are
        contacted at different times later.
        """
        if result.outcome not in REPLIED:
            self.failures += 1
            delay = min(RETRY_MOST, 2.0 ** min(self.failures, 10))
            self.next_contact = now + delay * (0.5 + random / 2)
            return
        self.next_contact = now + (renewal or CHECK_INTERVAL) * (0.8 + random / 5)
        if lease_at > now and self.lease.remaining(now):
            # The replies, or a message of the kernel since the request, tell of another path.
            self.next_contact = now
        elif self.is_met and not any(
            id.startswith("lease-") for id in result.call.exchange.replies
        ):
            # The guest answers, and no lease was offered in this contact.
            self.expect_lease(lease_at, random, now)

    def expect_lease(self, lease_at: float, random: float, now: float) -> None:
        """Contact the guest no later than it may get a lease; as :meth:`end_contact`."""
        first_lease = lease_at + random * LEASE_SPREAD if lease_at > now else now
        self.next_contact = min(self.next_contact, first_lease)

    def note_hint_answered(self, seconds: float) -> None:
        """Count a hint that was answered ``seconds`` after the failover."""
        self.answered += 1
        self.last_seconds = seconds
        self.slowest_seconds = max(self.slowest_seconds or 0.0, seconds)

    def values(self, now: float) -> dict[str, object]:
        """Return the state as plain values, for the status."""
        return {
            "guest": self.channel.guest,
            "path": self.channel.path,
            "state": self.outcome.value if self.outcome else "new",
            "errno": self.errno,
            "version": self.version or None,
            "lease": round(self.lease.remaining(now), 1) or 0,
            "hints": self.hints,
            "answered": self.answered,
            "last_seconds": rounded(self.last_seconds),
            "slowest_seconds": rounded(self.slowest_seconds),
        }


def rounded(seconds: float | None) -> float | None:
    """Return ``seconds`` in whole microseconds."""
    return None if seconds is None else round(seconds, 6)


def _version_in(value: Mapping[str, object]) -> str:
    version = value.get("version")
    if isinstance(version, str) and is_plain(version) and version:
        return version[:VERSION_LIMIT]
    return "unknown"


def _longest_interval_in(value: Mapping[str, object]) -> float:
    seconds = value.get("longest_interval")
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    return max(0.0, float(seconds)) if is_number else inf  # type: ignore[arg-type]


def macs_in(value: Mapping[str, object]) -> frozenset[bytes]:
    """Return the MACs in a reply to ``info``, at most MACS_MOST of them."""
    links = value.get("links")
    if not isinstance(links, list):
        return frozenset()
    texts = [link.get("mac") for link in links[:MACS_MOST] if isinstance(link, dict)]
    macs = [_mac_from(text) for text in texts if isinstance(text, str)]
    return frozenset(mac for mac in macs if mac)


def _mac_from(text: str) -> bytes:
    """Return the six bytes of a MAC; b"" for any other text."""
    try:
        mac = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        return b""
    return mac if len(text) == 17 and len(mac) == 6 else b""
