"""The daemon of ``garp-hint watch``: wires its components and handles signals.

Decides nothing about links or guests: the components do.  Each turn handles the kernel's messages
first, because guests stay unreachable until the hints after a failover are sent.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # needs less memory: docs/design.md
import gc
import os
import time
from math import inf

from garp_agent import __version__
from garp_agent.hypervisor.bridge_table_reader import BridgeTableReader
from garp_agent.hypervisor.core.announce_self import REWRITE
from garp_agent.hypervisor.core.failover_record import PathForwards, PathLost
from garp_agent.hypervisor.core.guest_paths import GuestPaths
from garp_agent.hypervisor.core.guests_without_channel import UNMATCHED, guests_without_channel
from garp_agent.hypervisor.core.hint_rounds import HINT
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher
from garp_agent.hypervisor.guest_search import GuestSearch
from garp_agent.hypervisor.io.fanout import Fanout
from garp_agent.hypervisor.io.learning_socket import NoRawFramesError
from garp_agent.hypervisor.io.probe_socket import ProbeSender
from garp_agent.hypervisor.link_failovers import LinkFailovers
from garp_agent.hypervisor.monitor_child import MonitorChild
from garp_agent.hypervisor.requests import OperatorRequests
from garp_agent.hypervisor.xen_rewrites import XenRewrites
from garp_agent.runtime.control_socket import ControlSocket
from garp_agent.runtime.notify import Notify
from garp_agent.runtime.reactor import Reactor
from garp_agent.runtime.signals import Signals
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set
    from typing import Any

    from garp_agent.hypervisor.core.bonds import BondFailover
    from garp_agent.hypervisor.core.exchange import Call, Result
    from garp_agent.hypervisor.learning import Learning
    from garp_agent.hypervisor.options import WatchOptions
    from garp_agent.hypervisor.path_verifier import PathVerifier
    from garp_agent.runtime.log import Log

# Objects after which Python looks for garbage: more than a round of hints to 1,000 guests makes.
GARBAGE = 10_000
NO_PROBES = "path probes need CAP_NET_RAW, and AF_PACKET in the unit"
# Seconds from a lack of memory to the hints that make up for what was lost, and between two such.
HINT_AGAIN = 1.0
HINT_AGAIN_LEAST = 30.0


class WatcherDaemon:
    """The watcher while it runs."""

    def __init__(self, options: WatchOptions, log: Log) -> None:
        """Raises OSError if the status socket cannot be made; NoRawFramesError."""
        self._options = options
        self._log = log
        self._started = time.monotonic()
        # Before the status socket exists: a process that sees it can send a signal at once.
        self._signals = Signals()
        self._links = LinkFailovers(options.bonds, options.debounce, log)
        self._followed = self._links.followed  # as the other parts know them
        self._learning = self._make_learning() if options.learn else None
        self._not_verified = ""  # why not; "": failovers are verified
        sender = self._probe_sender()
        self._control = ControlSocket(options.status_socket) if options.status_socket else None
        self._guest_paths = GuestPaths(self._links.follower)
        self._tables = BridgeTableReader(self._guest_paths.ports)
        self._fanout = Fanout(options.timeout)
        self._notify = Notify()
        self._rewrites = XenRewrites()
        wanted = HintOptions(
            options.lease, options.lease_after, options.pace, options.announce_self
        )
        self._watcher = Watcher(wanted, os.urandom(6).hex(), _random, self._guest_paths.path_of)
        self._requests = OperatorRequests(self._hint_for_operator, self._status)
        self._next_find = -inf  # when to search for guests
        self._is_ready = False  # the links are known, and guests were searched for once
        self._hint_again_at, self._hinted_again_at = inf, -inf  # after a lack of memory
        self._stop_at = inf
        self._reactor = Reactor(self._repair)  # calls handlers in this order
        self._libvirt: MonitorChild | None = None
        monitors = options.monitors
        if options.connect:
            self._libvirt = MonitorChild(options.connect, options.status_socket, self._reactor, log)
            monitors += (self._libvirt.pattern,)
        self._search = GuestSearch(options, monitors, log)
        self._reactor.watch(self._links, self._read_links)
        self._reactor.watch(self._fanout, self._read_guests)
        self._reactor.watch(self._signals, self._read_signals)
        if self._control is not None:
            self._reactor.watch(self._control, self._read_control)
        self._reactor.watch(self._tables, self._tables.read)
        if self._learning is not None:
            self._reactor.watch(self._learning, self._learning.read)
        self._verifier = None if sender is None else self._new_verifier(sender)
        self._verified: dict[int, tuple[BondFailover, float]] = {}  # by number, while checked

    def _probe_sender(self) -> ProbeSender | None:
        """Return what sends path probes; None if it is not wanted, or not permitted.

        Raises NoRawFramesError with --verify if it is not permitted.
        """
        if self._options.verify is False:
            self._not_verified = "--no-verify was given"
            return None
        try:
            return ProbeSender()
        except OSError as error:
            if self._options.verify:
                raise NoRawFramesError(f"--verify: {NO_PROBES} ({error.strerror})") from None
        self._not_verified = NO_PROBES
        self._log.say(LEVEL_NOTICE, "failovers-not-verified", reason=NO_PROBES)
        return None

    def _new_verifier(self, sender: ProbeSender) -> PathVerifier:
        # Only where it is permitted: the others would pay for its modules with memory.
        from garp_agent.hypervisor.path_verifier import PathVerifier

        return PathVerifier(self._links.follower, self._reactor, sender)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then revoke the leases and close everything."""
        while not self._is_over():
            try:
                self._take_turns()
            except MemoryError:
                self._reactor.repair(time.monotonic())
        self._close()

    def _is_over(self) -> bool:
        if self._stop_at == inf:
            return False
        return not len(self._fanout) or time.monotonic() >= self._stop_at

    def _take_turns(self) -> None:
        wake_at = -inf
        links_alone = {self._links.fileno()}
        while not self._is_over():
            ready = self._reactor.wait(wake_at)
            now = time.monotonic()
            # Most messages are about guests' ports and change nothing: no more is due.  Not so
            # for the end of the first dump, after which guests are searched for.
            is_quiet = self._links.is_complete and ready == links_alone and now < wake_at
            if is_quiet and not self._read_links(now):
                wake_at = min(wake_at, self._links.deadline())
                continue
            self._turn(ready, now)
            wake_at = self._deadline()

    def _repair(self, now: float, is_news: bool) -> None:
        """Treat a lack of memory as an overrun of the kernel's messages, and hint all guests soon.

        A failover, or the outcome of a contact, may have been lost.
        """
        self._hint_again(now)
        self._links.lose(now)
        if is_news:
            self._log.say(LEVEL_WARNING, "out-of-memory", action="reading everything anew")

    def _hint_again(self, now: float) -> None:
        self._hint_again_at = max(now + HINT_AGAIN, self._hinted_again_at + HINT_AGAIN_LEAST)

    def _turn(self, ready: Set[int], now: float) -> None:
        self._hint(self._links.advance(now), now)
        self._reactor.call(ready, now)
        if self._control is not None:
            self._control.attempt(now)
        self._take(self._fanout.advance(now), now)
        if self._stop_at == inf:
            if self._links.is_complete:
                self._tables.advance(now)
                if now >= self._next_find:
                    self._find(now)
                self._verify(now)
                if now >= self._hint_again_at:
                    self._hint_again_at, self._hinted_again_at = inf, now
                    self._hint_for_operator("garp-hint was out of memory", now)
            self._call(self._watcher.advance(now), now)
            self._take(self._rewrites.advance(), now)
        if self._learning is not None and self._links.is_complete:
            self._learning.advance(now)
        self._notify.alive(now)
        self._write_notices()

    def _deadline(self) -> float:
        always = (self._links.deadline(), self._fanout.deadline(), self._notify.deadline())
        if self._stop_at < inf:
            return min(*always, self._stop_at)
        if self._rewrites:
            return -inf
        if not self._links.is_complete:
            return min(*always, self._watcher.deadline())
        learning = inf if self._learning is None else self._learning.deadline()
        verifier = inf if self._verifier is None else self._verifier.deadline()
        guests = (self._watcher.deadline(), self._tables.deadline(), self._next_find)
        return min(*always, *guests, learning, verifier, self._hint_again_at)

    def _write_notices(self) -> None:
        notices = self._watcher.take_notices()
        if self._learning is not None:
            notices += self._learning.take_notices()
        for notice in notices:
            self._log.write(notice)

    def _close(self) -> None:
        if self._verifier is not None:
            self._verifier.close()
        self._reactor.close()
        self._fanout.close()
        self._links.close()
        self._tables.close()
        self._search.close()
        if self._libvirt is not None:
            self._libvirt.close()
        self._signals.close()
        if self._learning is not None:
            self._learning.close()
        if self._control is not None:
            self._control.close()

    def _make_learning(self) -> Learning:
        # Only with --learn: the others would pay for its modules with memory.
        from garp_agent.hypervisor.learning import Learning
        from garp_agent.hypervisor.learning_options import learning_rules

        options = self._options
        rules = learning_rules(options.learn_never, options.learn_ports, options.learn_vlans)
        made = Learning(self._links.follower, rules, options.learn_pace, time.monotonic)
        self._links.note = made.note
        return made

    # -- links --------------------------------------------------------------------------

    def _read_links(self, now: float) -> bool:
        """Read the kernel's messages; return whether they can concern anything but the links."""
        return self._hint(self._links.read(now), now)

    def _hint(self, failovers: list[BondFailover], now: float) -> bool:
        verifier = self._verifier
        has_news = verifier is not None and verifier.note_links(now)
        if self._links.followed is self._followed and not failovers:
            return has_news
        self._followed = self._links.followed
        self._watcher.follow(self._links.followed, now)
        if self._learning is not None:
            self._learning.follow(self._links.followed, now)
        for failover in failovers:
            names = failover.links | failover.guest_ports
            link, reason, wall = failover.link, failover.reason, time.time()
            hold = verifier.hold(names, now) if verifier is not None else 0.0
            if self._learning is not None:  # 1,000 guests take it less time than their hints
                self._learning.failover(failover, now, wall)
            self._call(self._watcher.failover(link, reason, names, now, wall, hold), now)
            if verifier is not None:
                number = self._watcher.latest_failover
                self._verified[number] = failover, wall
                if not verifier.begin(number, names, now) and hold:  # nothing is to be waited for
                    self._call(self._watcher.path_forwards(number, False, now), now)
        return True

    def _verify(self, now: float) -> None:
        if self._verifier is None:
            return
        for event in self._verifier.advance(now):
            number = event.number
            if isinstance(event, PathLost):
                self._call(self._watcher.path_forwards(number, False, now), now)
                continue
            if isinstance(event, PathForwards):
                self._call(self._watcher.path_forwards(number, event.is_late, now), now)
                if event.is_late and self._learning is not None:
                    failover, wall = self._verified[number]
                    self._learning.failover(failover, now, wall)
                continue
            self._watcher.verified(number, event.found, event.ports)
            if event.is_over:
                self._watcher.log_verified(number)
        known = self._verifier.numbers
        self._verified = {each: self._verified[each] for each in self._verified if each in known}

    # -- guests -------------------------------------------------------------------------

    def _read_guests(self, now: float) -> None:
        self._take(self._fanout.read(now), now)

    def _call(self, calls: list[Call], now: float) -> None:
        if len(self._fanout):
            # QEMU serves one client at a time: a contact under way would delay the hint.
            self._fanout.cancel({call.path for call in calls if call.kind == HINT})
        rewrites = [call for call in calls if call.kind == REWRITE]
        if rewrites:
            self._rewrites.add(rewrites)
            calls = [call for call in calls if call.kind != REWRITE]
        if calls:
            self._take(self._fanout.start(calls, now), now)

    def _take(self, results: list[Result], now: float) -> None:
        calls = [call for result in results for call in self._watcher.finished(result, now)]
        if calls:
            self._call(calls, now)

    def _find(self, now: float) -> None:
        self._next_find = now + self._options.discover
        self._watcher.found(self._search.channels(), now)
        cards = self._search.read_cards()
        self._guest_paths.ports.state((mac, port) for _, port, mac in cards)
        self._guest_paths.ports.look_for(self._watcher.macs(), now)
        if self._libvirt is not None:
            self._libvirt.keep(now)
        if self._learning is not None:
            self._learning.found(cards)
        if self._options.announce_self:
            self._watcher.found_monitors(self._search.monitors())
        self._search.log_news()
        if not self._is_ready:
            self._is_ready = True
            # What is there now stays: to look through it for garbage takes 5 ms, which could
            # come in the middle of a round of hints.
            if hasattr(gc, "freeze"):  # Python 3.7
                gc.freeze()
            gc.set_threshold(GARBAGE)
            self._notify.say("READY=1")

    # -- the operator -------------------------------------------------------------------

    def _read_signals(self, now: float) -> None:
        for number in self._signals.read():
            if number == signal.SIGHUP:
                self._next_find = now
            elif number == signal.SIGUSR1:
                self._hint_for_operator("operator", now)
            elif self._stop_at == inf:
                self._stop(now)

    def _stop(self, now: float) -> None:
        self._notify.say("STOPPING=1")
        self._log.say(LEVEL_NOTICE, "stopping")
        self._stop_at = now + self._options.timeout
        self._call(self._watcher.revoke_leases(now), now)

    def _read_control(self, now: float) -> None:
        assert self._control is not None
        for client, line in self._control.read(now):
            self._control.reply(client, self._requests.answer(line, now))

    def _hint_for_operator(self, reason: str, now: float) -> int:
        wall = time.time()
        try:
            calls = self._watcher.hint_all(reason, now, wall)
            self._call(calls, now)
            if self._learning is not None:
                self._learning.learn_all(now, wall)
        except MemoryError:  # the caller may only refuse the request
            self._hint_again(now)
            raise
        return sum(call.kind == HINT for call in calls)

    def _status(self, now: float) -> dict[str, object]:
        values = {**self._watcher.status(now), "learning": None}
        values["without_channel"] = self._without_channel(values["guests"])
        if self._learning is not None:
            self._learning.add_to(values, now)
        return {
            **values,
            **self._links.values(),
            "leases": self._options.lease > 0,
            "pid": os.getpid(),
            "ready": self._is_ready,
            "verifies": self._verifier is not None,
            "not_verified": self._not_verified or None,
            "uptime": round(now - self._started, 1),
            "version": __version__,
        }

    def _without_channel(self, guests: Any) -> list[dict[str, object]]:
        """Return the guests that only the links show; ``guests``: the others, of the status."""
        names = {card.port: card.guest for card in self._search.cards}
        found = guests_without_channel(self._links.follower, names, guests)
        ways = {
            each.guest: self._watcher.way_without_channel(each.guest, each.state == UNMATCHED)
            for each in found
        }
        return [
            {**each.values(), "way": ways[each.guest][0], "no_way": ways[each.guest][1] or None}
            for each in found
        ]


def _random() -> float:
    """Return 0 to 1, from the kernel: the module ``random`` would load OpenSSL."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
