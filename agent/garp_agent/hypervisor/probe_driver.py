"""Carries out a series of path probes: sockets, clock, and a loop; for the commands.

Decides neither what is probed (hypervisor.core.path_probes) nor what a result means
(hypervisor.core.probe_series).
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from math import inf

from garp_agent.hypervisor.core.path_probes import RUN_LENGTH, encode_probe, probe_source
from garp_agent.hypervisor.core.probe_series import Pace
from garp_agent.hypervisor.io.probe_socket import ProbeReceiver, ProbeSender
from garp_agent.runtime.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.path_probes import ProbePath
    from garp_agent.hypervisor.core.probe_series import Probe, ProbeSeries

PROBE_ROUNDS = 3  # probes to each target, if nothing else is wanted
PROBE_PACE = Pace(gap=1 / 199, interval=0.05)  # at most 200 in any second
WAIT = 1.0  # seconds after the last probe, for those under way


class ProbeDriver:
    """The sockets on the ports of some paths; one series after another uses them."""

    def __init__(self, table: LinkTable, paths: Iterable[ProbePath]) -> None:
        """Both ends of each path can send and receive.

        Raises OSError: PermissionError without CAP_NET_RAW; ENODEV if a port is gone.
        """
        self._table = table
        self._run = os.urandom(RUN_LENGTH)
        self._first = 0  # added to the sequence numbers of the series under way
        self._series: ProbeSeries | None = None
        with ExitStack() as stack:
            self._reactor = stack.enter_context(closing(Reactor()))
            self._sender = stack.enter_context(closing(ProbeSender()))
            for port in sorted({port for path in paths for port in path[1:]}):
                receiver = ProbeReceiver(table.links[port].name, self._run)
                stack.callback(receiver.close)
                self._reactor.watch(receiver, self._reader(port, receiver))
            self._stack = stack.pop_all()

    def __enter__(self) -> ProbeDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, series: ProbeSeries, is_over: Callable[[float], bool]) -> None:
        """Send a series until ``is_over``.

        It is asked in each turn with a time, in seconds: what had arrived by then is read.
        """
        self._series = series
        read_up_to = -inf
        while True:
            now = time.monotonic()
            probe = series.next_probe(now)
            while probe is not None:
                self._send(series, probe)
                probe = series.next_probe(now)
            if is_over(read_up_to):
                break
            ready = self._reactor.wait(min(series.deadline(), now + 0.05))
            self._reactor.call(ready, time.monotonic())
            read_up_to = now
        self._series = None
        self._first += len(series.sent_at)  # what is still under way counts for no other series

    def run_to_end(self, series: ProbeSeries) -> None:
        """Send a whole series, and wait for the probes under way."""

        def is_over(now: float) -> bool:
            return series.is_complete or (series.is_sent and now > series.last_sent_at + WAIT)

        self.run(series, is_over)

    def _send(self, series: ProbeSeries, probe: Probe) -> None:
        target = probe.target
        port = self._table.links[target.path.standby]
        source = probe_source(self._table, port)
        number = self._first + probe.sequence & 0xFFFFFFFF
        frame = encode_probe(target.address, source, target.tags, self._run, number)
        errno = self._sender.send(port.name, frame)
        if errno:
            series.not_sent(probe.sequence, errno)

    def _reader(self, port: int, receiver: ProbeReceiver) -> Callable[[float], None]:
        def read(now: float) -> None:
            for probe in receiver.read():
                if self._series is not None and probe.sequence >= self._first:
                    own = probe._replace(sequence=probe.sequence - self._first)
                    self._series.seen(port, own, now)

        return read
