"""The hypervisor's one loop, behind ``garp-hint watch`` and ``garp-hint send``.

Decides nothing: it waits, reads the clock once a turn, hands what happened to the
follower (links) and the watcher (guests), and carries out their calls.  Links come
first in every turn: a failover is what the hurry is for.
"""

from __future__ import annotations

import os
import select
import signal
import time
from math import inf

from garp_agent import __version__
from garp_agent.hypervisor.core.bonds import DEBOUNCE, Follower
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.hypervisor.core.watcher import HINT, LEASE, Options, Watcher
from garp_agent.hypervisor.io.channels import PORT_NAME, STATUS_DIRECTORY, Finder, matching
from garp_agent.hypervisor.io.fanout import TIMEOUT, Fanout
from garp_agent.runtime.control_socket import ControlSocket
from garp_agent.runtime.netlink import Netlink
from garp_agent.runtime.notify import Notify
from garp_agent.runtime.signals import Signals
from garp_agent.wire.model import (
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    DumpComplete,
    DumpStarted,
)
from garp_agent.wire.protocol import (
    Burst,
    ProtocolError,
    Sync,
    encode_error,
    encode_return,
    encode_sync,
    parse,
)
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.exchange import Call, Result
    from garp_agent.hypervisor.core.linkstate import LinkEvent
    from garp_agent.runtime.log import Log
    from garp_agent.wire.protocol import Request

STATUS_SOCKET = "/run/garp-hint/status.sock"
RECONCILE = 300.0  # seconds between dumps of all links, whatever events say
DISCOVER = 5.0  # seconds between looks for guests
OPERATOR = "operator"  # the link that a failover has when a person asked for it
COMMANDS = ("burst", "status", "sync")  # of the status socket


class WatchOptions(NamedTuple):
    """What ``garp-hint watch`` was told."""

    port: str = PORT_NAME
    channels: tuple[str, ...] = ()  # patterns
    libvirt_status: str = STATUS_DIRECTORY
    bonds: tuple[str, ...] = ()
    lease: float = LEASE
    pace: float = 0.0
    debounce: float = DEBOUNCE
    timeout: float = TIMEOUT
    discover: float = DISCOVER
    status_socket: str = STATUS_SOCKET  # "": none
    announce_self: bool = False
    monitors: tuple[str, ...] = ()  # patterns
    verbose: bool = False
    log_format: str = "text"


def converse(calls: Iterable[Call], timeout: float) -> list[Result]:
    """Carry out calls, all at once; returns when the last has ended."""
    fanout = Fanout(timeout)
    results = fanout.start(calls, time.monotonic())
    while len(fanout):
        select.select([fanout], [], [], max(0.0, fanout.deadline() - time.monotonic()))
        now = time.monotonic()
        results += fanout.read(now) + fanout.advance(now)
    fanout.close()
    return results


class Watch:
    """Everything that ``garp-hint watch`` lives with."""

    def __init__(self, options: WatchOptions, log: Log) -> None:
        """Raises OSError where the status socket can't be made."""
        self._options = options
        self._log = log
        # Before the socket is there for others to see: a signal may follow at once.
        self._signals = Signals()
        self._control = ControlSocket(options.status_socket) if options.status_socket else None
        self._links = Netlink(RECONCILE, LINKS)
        self._overruns = 0
        self._fanout = Fanout(options.timeout)
        self._notify = Notify()
        self._finder = Finder(options.port, options.channels, options.libvirt_status)
        self._follower = Follower(options.bonds, options.debounce)
        wanted = Options(options.lease, options.pace, options.announce_self)
        self._watcher = Watcher(wanted, os.urandom(6).hex(), _random)
        self._started = time.monotonic()
        self._next_find = -inf
        self._ready = False  # the first dump is complete
        self._stop_at = inf
        self._followed: set[str] = set()  # names, as logged
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[float], None]] = {
            self._fanout.fileno(): self._read_guests,
            self._signals.fileno(): self._read_signals,
        }
        if self._control is not None:
            self._handlers[self._control.fileno()] = self._read_control
        for descriptor in (self._links.fileno(), *self._handlers):
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Turn until stopped, then take the promises back."""
        wake_at = -inf
        while True:
            ready = self._epoll.poll(_timeout(wake_at))
            now = time.monotonic()
            self._turn([descriptor for descriptor, _ in ready], now)
            if now >= self._stop_at or (self._stop_at < inf and not len(self._fanout)):
                break
            wake_at = self._deadline()
        self._close()

    # -- a turn -------------------------------------------------------------------------

    def _turn(self, ready: list[int], now: float) -> None:
        self._take_links(self._links.reconcile(now), now)
        if self._links.fileno() in ready:
            self._take_links(self._links.read(now), now)
        for failover in self._follower.advance(now):
            self._hint(failover.link, failover.reason, now)
        for descriptor in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(now)
        if self._control is not None:
            self._control.attempt(now)
        self._finish(self._fanout.advance(now), now)
        if self._stop_at == inf:
            if self._ready and now >= self._next_find:
                self._find(now)
            self._watcher.promise(self._ready and self._follower.is_following, now)
            self._call(self._watcher.advance(now), now)
        self._notify.alive(now)
        for notice in self._watcher.take_notices():
            self._log.write(notice)

    def _deadline(self) -> float:
        always = (
            self._links.deadline(),
            self._follower.deadline(),
            self._fanout.deadline(),
            self._notify.deadline(),
        )
        if self._stop_at < inf:
            return min(*always, self._stop_at)
        next_find = self._next_find if self._ready else inf
        return min(*always, self._watcher.deadline(), next_find)

    def _close(self) -> None:
        self._epoll.close()
        self._fanout.close()
        self._links.close()
        self._signals.close()
        if self._control is not None:
            self._control.close()

    # -- links --------------------------------------------------------------------------

    def _take_links(self, events: list[LinkEvent], now: float) -> None:
        for event in events:
            self._follower.handle(event, now)
            if isinstance(event, DumpStarted) and event.overrun:
                self._overruns += 1
                self._log.say(LEVEL_WARNING, "netlink-overrun")
            elif isinstance(event, DumpComplete):
                self._dumped()
        if events and self._ready:
            self._note_followed()

    def _dumped(self) -> None:
        if not self._ready:
            self._ready = True
            self._notify.say("READY=1")
            if not self._follower.is_following:
                wanted = ",".join(self._options.bonds) or None
                self._log.say(LEVEL_WARNING, "nothing-to-follow", wanted=wanted)

    def _note_followed(self) -> None:
        links = {link.link: link for link in self._follower.followed()}
        for name in self._followed - set(links):
            self._log.say(LEVEL_WARNING, "no-longer-following", link=name)
        for name in sorted(set(links) - self._followed):
            link = links[name]
            ports, mode = ",".join(link.ports), link.mode or None
            fields = {"link": name, "kind": link.kind, "mode": mode, "ports": ports}
            self._log.say(LEVEL_INFO, "following", **fields)
        self._followed = set(links)

    # -- guests -------------------------------------------------------------------------

    def _hint(self, link: str, reason: str, now: float) -> int:
        """Hint all guests; how many."""
        calls = self._watcher.failover(link, reason, now, time.time())
        self._call(calls, now)
        return sum(call.kind == HINT for call in calls)

    def _call(self, calls: list[Call], now: float) -> None:
        urgent = {call.path for call in calls if call.kind == HINT}
        if urgent and len(self._fanout):
            self._fanout.cancel(urgent)
        if calls:
            self._finish(self._fanout.start(calls, now), now)

    def _finish(self, results: list[Result], now: float) -> None:
        calls = [call for result in results for call in self._watcher.finished(result, now)]
        if calls:
            self._call(calls, now)

    def _read_guests(self, now: float) -> None:
        self._finish(self._fanout.read(now), now)

    def _find(self, now: float) -> None:
        self._next_find = now + self._options.discover
        self._watcher.found(self._finder.find(), now)
        if self._options.monitors:
            self._watcher.found_monitors(matching(self._options.monitors))

    # -- the operator -------------------------------------------------------------------

    def _read_signals(self, now: float) -> None:
        for number in self._signals.read():
            if number == signal.SIGHUP:
                self._next_find = now
            elif number == signal.SIGUSR1:
                self._hint(OPERATOR, "operator", now)
            elif self._stop_at == inf:
                self._stop(now)

    def _stop(self, now: float) -> None:
        self._notify.say("STOPPING=1")
        self._log.say(LEVEL_NOTICE, "stopping")
        self._stop_at = now + self._options.timeout
        self._call(self._watcher.farewell(now), now)

    def _read_control(self, now: float) -> None:
        assert self._control is not None
        for client, line in self._control.read(now):
            try:
                answer = self._answer(parse(line, COMMANDS), now)
            except ProtocolError as error:
                answer = encode_error(error)
            self._control.reply(client, answer)

    def _answer(self, request: Request, now: float) -> bytes:
        if isinstance(request, Sync):
            return encode_sync(request.id)
        if isinstance(request, Burst):
            guests = self._hint(OPERATOR, request.reason or "operator", now)
            return encode_return(request.id, {"guests": guests})
        return encode_return(request.id, self._status(now))

    def _status(self, now: float) -> dict[str, object]:
        return {
            **self._watcher.status(now),
            "following": [dict(zip(link._fields, link)) for link in self._follower.followed()],
            "history": self._watcher.past(),
            "netlink_overruns": self._overruns,
            "netlink_undecoded": self._links.malformed,
            "pid": os.getpid(),
            "ready": self._ready and self._next_find > -inf,  # and guests were looked for
            "uptime": round(now - self._started, 1),
            "version": __version__,
        }


def _random() -> float:
    """0 to 1; the module of that name would load OpenSSL."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


def _timeout(wake_at: float) -> float | None:
    return None if wake_at == inf else max(0.0, wake_at - time.monotonic())
