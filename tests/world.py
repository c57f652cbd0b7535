"""What the tests of the agent share: short forms of links and addresses, and a simulated loop."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from hypothesis import settings as hypothesis_settings

from garp_agent.config.settings import Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import (
    ARPHRD_ETHER,
    AddressSeen,
    Announcement,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
    SendOutcome,
    Sent,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted

IFF_BROADCAST = 0x2
IFF_RUNNING = 0x40
IFF_MULTICAST = 0x1000
RUNNING = IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | IFF_LOWER_UP
NO_CARRIER = RUNNING & ~IFF_LOWER_UP & ~IFF_RUNNING
DOWN = IFF_BROADCAST | IFF_MULTICAST

DEFAULTS = Settings()
REFUSED = (SendOutcome.DROPPED, errno.ENOBUFS)

# GARP_AGENT_EXAMPLES=2000 makes a long run: that many examples, and others every time.
EXAMPLES = int(os.environ.get("GARP_AGENT_EXAMPLES", "0"))


def property_settings(examples: int, **more: Any) -> hypothesis_settings:
    """The same examples in every run, unless a long run is asked for.  Never timed."""
    return hypothesis_settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        **more,
    )


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def link(ifindex: int = 2, name: str | None = None, **changes: Any) -> Link:
    """An Ethernet link that is up: eth2 is 02:00:00:00:00:02."""
    hardware_address = bytes((2, 0, 0, 0, *ifindex.to_bytes(2, "big")))
    made = Link(ifindex, name or f"eth{ifindex}", hardware_address, ARPHRD_ETHER, RUNNING)
    return made._replace(**changes)


def address(text: str, ifindex: int = 2, **changes: Any) -> InterfaceAddress:
    """``10.0.0.1/24`` on eth2."""
    host = ipaddress.ip_interface(text)
    return InterfaceAddress(ifindex, host.ip.packed, host.network.prefixlen)._replace(**changes)


def seen(*things: Any) -> list[Any]:
    """The events that report links and addresses; other things are events already."""
    wrap = {Link: LinkSeen, InterfaceAddress: AddressSeen}
    return [wrap.get(type(thing), lambda event: event)(thing) for thing in things]


def dump(*things: Any, overrun: bool = False) -> list[Any]:
    """A whole dump of links, addresses and ForwardingSeen."""
    forwarding = [thing for thing in things if isinstance(thing, ForwardingSeen)]
    others = seen(*(thing for thing in things if not isinstance(thing, ForwardingSeen)))
    named = [event._replace(dumped=True) for event in others]
    return [DumpStarted(overrun), *forwarding, *named, DumpComplete()]


class Frame(NamedTuple):
    """One announcement and the time at which it was to be sent."""

    at: float
    announcement: Announcement


class Agent:
    """An engine, and the loop around it as far as time goes.

    Time passes only in :meth:`until`, as the loop lets it pass from deadline to deadline, and in
    :meth:`stop`, as SIGSTOP does.  ``after_frame`` gives the events after each frame.
    """

    def __init__(
        self, settings: Settings = DEFAULTS, now: float = 1000.0, seed: int = 1, level: int = 7
    ) -> None:
        self.engine = Engine(settings, random.Random(seed).random, level)
        self.now = now
        self.wakeups = 0
        self.outcome = (SendOutcome.SENT, 0)
        # Links (ifindexes) and addresses whose frames the kernel refuses.
        self.refusing: Container[int | bytes] = ()
        self.after_frame: Callable[[Frame], Iterable[Any]] = lambda frame: ()

    def tell(self, *events: Any) -> list[Frame]:
        """Let all these events happen in one turn of the loop; return what it sends."""
        for event in events:
            self.engine.handle(event, self.now)
        return self._turn()

    def see(self, *things: Any) -> list[Frame]:
        """Report links and addresses as they are now."""
        return self.tell(*seen(*things))

    def until(self, then: float) -> list[Frame]:
        """Let time pass; return what is sent meanwhile."""
        frames: list[Frame] = []
        while self.engine.deadline() <= then:
            self.now = max(self.now, self.engine.deadline())
            frames += self._turn()
        self.now = then
        return frames

    def wait(self, seconds: float) -> list[Frame]:
        """Let so much time pass; return what is sent meanwhile."""
        return self.until(self.now + seconds)

    def stop(self, seconds: float, *events: Any) -> list[Frame]:
        """Be stopped for so long, then read at once what happened meanwhile."""
        self.now += seconds
        return self.tell(*events)

    def notices(self) -> list[str]:
        """The names of the notices since the last call."""
        return [notice.event for notice in self.engine.notices.take()]

    def _turn(self) -> list[Frame]:
        self.wakeups += 1
        frames: list[Frame] = []
        for announcement in iter(lambda: self.engine.next_frame(self.now), None):
            frames.append(Frame(self.now, announcement))
            is_refused = (
                announcement.ifindex in self.refusing or announcement.address in self.refusing
            )
            outcome = REFUSED if is_refused else self.outcome
            self.engine.handle(Sent(announcement, *outcome), self.now)
            for event in self.after_frame(frames[-1]):
                self.engine.handle(event, self.now)
        assert self.engine.deadline() > self.now, "a deadline that is over makes the loop spin"
        return frames


def addresses(frames: Iterable[Frame]) -> list[bytes]:
    """The addresses that were announced, in order."""
    return [frame.announcement.address for frame in frames]


def causes(frames: Iterable[Frame]) -> list[str]:
    """The causes, each once, in order."""
    return list(dict.fromkeys(frame.announcement.cause.value for frame in frames))


def times(frames: Iterable[Frame], since: float = 0.0) -> list[float]:
    """The moments, each once, counted from ``since``."""
    return list(dict.fromkeys(round(frame.at - since, 6) for frame in frames))


class TokenBucket:
    """An ordinary token bucket, to check ours against: it counts tokens instead of time.

    Its rate and depth are at most 14, and so is the number of frames in any second.
    """

    def __init__(self, rate: float, depth: int) -> None:
        self.rate = rate
        self.depth = depth
        self.tokens = float(depth)
        self.at = float("-inf")
        self.taken: list[float] = []

    def change(self, rate: float, depth: int, now: float) -> None:
        """Become another bucket, in which as many tokens are missing."""
        self._fill(now)
        self.tokens += depth - self.depth
        self.rate, self.depth = rate, depth

    def take(self, now: float) -> None:
        """Send one frame; it is an error if there is no token for it."""
        self._fill(now)
        self.tokens -= 1
        assert self.tokens > -self.rate * 1e-5, f"at {now} {-self.tokens} frames too many"
        self.taken = [*self.taken[-14:], now]
        assert len(self.taken) < 15 or now - self.taken[0] > 1.0, f"15 frames in a second at {now}"

    def _fill(self, now: float) -> None:
        self.tokens = min(self.depth, self.tokens + self.rate * (now - self.at))
        self.at = now
