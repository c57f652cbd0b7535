"""Many conversations at once, over real sockets with guests of every manner behind them."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.guests import SLOWNESS, Guests, Manner
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.daemon import converse
from garp_agent.hypervisor.io.fanout import Fanout
from garp_agent.wire.protocol import Info, encode_request

PATIENCE = 60.0  # seconds; nothing takes as long unless it is broken
ALL = list(Manner)
EXPECTED = {
    Manner.ANSWERS: Outcome.ANSWERED,
    Manner.SLOW: Outcome.ANSWERED,
    Manner.CHATTY: Outcome.ANSWERED,
    Manner.REFUSES: Outcome.REFUSED,
    Manner.DEAF: Outcome.BUSY,
    Manner.MUTE: Outcome.NO_AGENT,
    Manner.SILENT: Outcome.NO_AGENT,
    Manner.GARBAGE: Outcome.GARBAGE,
    Manner.HANGS_UP: Outcome.HUNG_UP,
    Manner.HALF_CLOSES: Outcome.HUNG_UP,
    Manner.SELECTIVE: Outcome.NO_AGENT,
    Manner.CROWDED: Outcome.BUSY,
}


def calls(paths: list[str], times: int = 1) -> list[Call]:
    """Ask everybody for info; many times over, to make it long."""
    requests = {f"id-{n}": encode_request("info", None, f"id-{n}") for n in range(times)}
    return [Call(path, Exchange(requests), "test", n) for n, path in enumerate(paths)]


def outcomes(results: list[Result]) -> list[Outcome]:
    return [result.outcome for result in sorted(results, key=lambda result: result.call.number)]


def test_every_manner_has_its_outcome_and_delays_no_other(short_path: Path) -> None:
    with Guests(short_path, [*ALL, Manner.ANSWERS]) as guests:
        results = converse(calls(guests.paths), timeout=2.0)
    found = outcomes(results)
    assert dict(zip(ALL, found)) == EXPECTED
    assert len(results) == len(ALL) + 1
    ended = [result.call.number for result in results]
    patient = [n for n, m in enumerate(ALL) if EXPECTED[m] in (Outcome.BUSY, Outcome.NO_AGENT)]
    # The last one in the row answers before those that are stuck have had their time.
    assert max(ended.index(0), ended.index(len(ALL))) < min(map(ended.index, patient))
    for result in results:
        stuck = result.call.number in patient
        assert (result.seconds >= 2.0) is stuck
    assert results[ended.index(ALL.index(Manner.SLOW))].seconds >= SLOWNESS


def test_the_reply_is_the_guests_own(short_path: Path) -> None:
    with Guests(short_path, [Manner.CHATTY]) as guests:
        [result] = converse(calls(guests.paths), timeout=20.0)
        assert guests.requests(0) == [Info("id-0")]
    assert isinstance(result.call.conversation, Exchange)
    assert result.call.conversation.replies["id-0"].value["version"] == "0.1.0"


def test_where_nobody_listens(short_path: Path) -> None:
    dead = str(short_path / "dead")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(dead)
    paths = [str(short_path / "none"), dead, f"{dead}/below", str(short_path / ("x" * 108))]
    results = converse(calls(paths), timeout=20.0)
    gone = Outcome.GONE
    assert outcomes(results) == [gone, gone, gone, Outcome.FAILED]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")
def test_where_we_are_not_allowed(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        os.chmod(guests.paths[0], 0o600)
        os.seteuid(65534)
        try:
            [result] = converse(calls(guests.paths), timeout=20.0)
        finally:
            os.seteuid(0)
    assert result.outcome is Outcome.FORBIDDEN


def test_what_does_not_fit_at_once_is_sent_as_there_is_room(short_path: Path) -> None:
    path = str(short_path / "socket")
    [call] = calls([path], 20_000)
    whole, received = call.conversation.outgoing, b""
    with socket.socket(socket.AF_UNIX) as listener, closing(Fanout(timeout=1000.0)) as fanout:
        listener.bind(path)
        listener.listen(1)
        assert fanout.start([call], 0.0) == []
        assert 0 < len(call.conversation.outgoing) < len(whole)
        accepted = listener.accept()[0]
        with accepted:
            while len(received) < len(whole):
                received += accepted.recv(1 << 16)
                assert fanout.read(0.0) == []
        assert received == whole
        assert call.conversation.outgoing == b""


def test_a_crowded_one_is_reached_once_there_is_room(short_path: Path) -> None:
    path = str(short_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as crowd:
        listener.bind(path)
        listener.listen(0)
        crowd.connect(path)
        with closing(Fanout(timeout=1000.0)) as fanout:
            assert fanout.start(calls([path]), 0.0) == []
            assert fanout.deadline() < 1.0
            assert fanout.advance(fanout.deadline()) == []
            listener.accept()[0].close()
            assert fanout.advance(fanout.deadline()) == []
            assert fanout.deadline() > 1000.0
            accepted = listener.accept()[0]
            with accepted:
                assert accepted.recv(4096) == encode_request("info", None, "id-0")


def test_more_calls_than_descriptors(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS] * 50)
    with guests, closing(Fanout(timeout=20.0, most=7)) as fanout:
        results = fanout.start(calls(guests.paths), time.monotonic())
        assert len(fanout) == 50
        results += until_done(fanout)
    assert outcomes(results) == [Outcome.ANSWERED] * 50


def test_out_of_descriptors_the_rest_wait(short_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    guests = Guests(short_path, [Manner.ANSWERS] * 40)
    with closing(Fanout(timeout=20.0)) as fanout:
        ceiling = max(map(int, os.listdir("/proc/self/fd"))) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        try:
            results = fanout.start(calls(guests.paths), time.monotonic())
            assert results == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with guests:  # who answer from now on: in this process they were out of descriptors too
            results += until_done(fanout)
    assert outcomes(results) == [Outcome.ANSWERED] * 40


def test_cancelled_calls_end_without_a_result(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS, Manner.DEAF, Manner.CROWDED, Manner.DEAF])
    with guests, closing(Fanout(timeout=20.0, most=3)) as fanout:
        results = fanout.start(calls(guests.paths), time.monotonic())
        fanout.cancel(set(guests.paths[1:]))
        results += until_done(fanout)
    assert [(result.call.number, result.outcome) for result in results] == [(0, Outcome.ANSWERED)]


def test_nothing_stays_open(short_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Guests(short_path, [m for m in ALL if m is not Manner.GARBAGE]) as guests:
        fanout = Fanout(timeout=0.5)
        fanout.start(calls(guests.paths), time.monotonic())
        until_done(fanout)
        fanout.start(calls(guests.paths), time.monotonic())
        fanout.close()
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def closing(fanout: Fanout) -> Iterator[Fanout]:
    try:
        yield fanout
    finally:
        fanout.close()


def until_done(fanout: Fanout) -> list[Result]:
    results: list[Result] = []
    end = time.monotonic() + PATIENCE
    while len(fanout):
        assert time.monotonic() < end
        now = time.monotonic()
        results += fanout.read(now) + fanout.advance(now)
    return results
