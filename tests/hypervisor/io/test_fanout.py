"""Many calls at once, over real sockets with guests of every manner behind them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.guests import SLOWNESS, Guests, Manner
from garp_agent.hypervisor.converse import converse
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.io.fanout import Fanout
from garp_agent.wire.protocol import Info, encode_request
from tests.runtime.descriptors import descriptors_left, open_descriptors

ALL = list(Manner)
EXPECTED = {
    **dict.fromkeys((Manner.ANSWERS, Manner.SLOW, Manner.IN_PIECES), Outcome.ANSWERED),
    **dict.fromkeys((Manner.STOPPED, Manner.FULL), Outcome.BUSY),
    **dict.fromkeys((Manner.NO_AGENT, Manner.SILENT, Manner.HIDES), Outcome.NO_AGENT),
    **dict.fromkeys((Manner.HANGS_UP, Manner.HALF_CLOSES), Outcome.HUNG_UP),
    Manner.REFUSES: Outcome.REFUSED,
    Manner.GARBAGE: Outcome.GARBAGE,
}


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def calls(paths: list[str], times: int = 1) -> list[Call]:
    """Ask all for info; ``times``: requests in one call, to make it long."""
    requests = {f"id-{n}": encode_request("info", None, f"id-{n}") for n in range(times)}
    return [Call(path, Exchange(requests), "test", n) for n, path in enumerate(paths)]


def outcomes(results: list[Result]) -> list[Outcome]:
    return [result.outcome for result in sorted(results, key=lambda result: result.call.number)]


def listening(path: str, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(backlog)
    return listener


def until_done(fanout: Fanout) -> list[Result]:
    results: list[Result] = []
    while len(fanout):  # each call expires
        now = time.monotonic()
        results += fanout.read(now) + fanout.advance(now)
    return results


def test_every_manner_has_its_outcome_and_delays_no_other_call(short_path: Path) -> None:
    with Guests(short_path, [*ALL, Manner.ANSWERS]) as guests:
        results = converse(calls(guests.paths), timeout=2.0)
        assert guests.requests(ALL.index(Manner.IN_PIECES)) == [Info("id-0")]
    assert dict(zip(ALL, outcomes(results))) == EXPECTED
    assert len(results) == len(ALL) + 1
    ended = [result.call.number for result in results]
    stuck = [n for n, m in enumerate(ALL) if EXPECTED[m] in (Outcome.BUSY, Outcome.NO_AGENT)]
    # The last guest in the row answers before the stuck calls expire.
    assert max(ended.index(0), ended.index(len(ALL))) < min(map(ended.index, stuck))
    for result in results:
        assert (result.seconds >= 2.0) is (result.call.number in stuck)
    assert results[ended.index(ALL.index(Manner.SLOW))].seconds >= SLOWNESS
    in_pieces = results[ended.index(ALL.index(Manner.IN_PIECES))].call.exchange
    assert in_pieces.replies["id-0"].value["version"] == "0.1.0"


def test_socket_without_listener_is_gone(short_path: Path) -> None:
    dead = str(short_path / "dead")
    listening(dead, 1).close()
    long, loop = str(short_path / ("x" * 108)), short_path / "loop"
    loop.symlink_to(loop)
    paths = [str(short_path / "none"), dead, f"{dead}/below", long, f"{loop}/x", "x" * 5000]
    results = converse(calls(paths), timeout=20.0)
    assert outcomes(results) == [Outcome.GONE] * 4 + [Outcome.FAILED] * 2
    errors = [errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ENOENT]
    errors += [errno.ELOOP, errno.ENAMETOOLONG]
    assert [result.errno for result in results] == errors


def test_socket_with_a_path_longer_than_an_address_is_reached(short_path: Path) -> None:
    folder = short_path / ("x" * 100)
    folder.mkdir()
    with listening(f"{short_path}/s", 1) as listener, closing(Fanout(timeout=1000.0)) as fanout:
        os.rename(short_path / "s", folder / "org.garp_agent.0")
        before = len(os.listdir("/proc/self/fd"))
        assert fanout.start(calls([f"{folder}/org.garp_agent.0"]), 0.0) == []
        assert len(os.listdir("/proc/self/fd")) == before + 1
        with listener.accept()[0] as accepted:
            assert accepted.recv(4096) == encode_request("info", None, "id-0")


def test_request_larger_than_the_buffer_is_sent_as_the_guest_reads(short_path: Path) -> None:
    path = str(short_path / "socket")
    [call] = calls([path], 20_000)
    whole, received = call.exchange.outgoing, b""
    with listening(path, 1) as listener, closing(Fanout(timeout=1000.0)) as fanout:
        assert fanout.start([call], 0.0) == []
        assert 0 < len(call.exchange.outgoing) < len(whole)
        with listener.accept()[0] as accepted:
            while len(received) < len(whole):
                received += accepted.recv(1 << 16)
                assert fanout.read(0.0) == []
        assert received == whole
        assert call.exchange.outgoing == b""


def test_full_backlog_is_retried_until_there_is_space(short_path: Path) -> None:
    path = str(short_path / "socket")
    with listening(path, 0) as listener, closing(Fanout(timeout=1000.0)) as fanout:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
            assert fanout.start(calls([path]), 0.0) == []
            assert fanout.deadline() < 1.0
            assert fanout.advance(fanout.deadline()) == []
            listener.accept()[0].close()
        assert fanout.advance(fanout.deadline()) == []
        assert fanout.deadline() > 1000.0
        with listener.accept()[0] as accepted:
            assert accepted.recv(4096) == encode_request("info", None, "id-0")


def test_calls_beyond_the_limit_wait_for_others_to_end(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS] * 50)
    with guests, closing(Fanout(timeout=20.0, most=7)) as fanout:
        results = fanout.start(calls(guests.paths), time.monotonic())
        assert len(fanout) == 50
        results += until_done(fanout)
    assert outcomes(results) == [Outcome.ANSWERED] * 50


def test_no_more_calls_than_the_limit_are_under_way(short_path: Path) -> None:
    paths = [str(short_path / f"{n}.sock") for n in range(3)]
    with contextlib.ExitStack() as stack:
        fanout = stack.enter_context(closing(Fanout(timeout=20.0, most=2)))
        first, second, third = (stack.enter_context(listening(path, 1)) for path in paths)
        third.setblocking(False)
        assert fanout.start(calls(paths), time.monotonic()) == []
        second.accept()[0].close()
        with pytest.raises(BlockingIOError):
            third.accept()
        with first.accept()[0]:
            (ended,) = fanout.read(time.monotonic())
            assert (ended.call.number, ended.outcome) == (1, Outcome.HUNG_UP)
            third.accept()[0].close()


def test_calls_without_a_descriptor_wait_for_others_to_end(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS] * 40)
    with closing(Fanout(timeout=20.0)) as fanout:
        with descriptors_left(20):
            assert fanout.start(calls(guests.paths), time.monotonic()) == []
        with guests:  # they answer only now, because the limit holds for them too
            results = until_done(fanout)
    assert outcomes(results) == [Outcome.ANSWERED] * 40


def test_cancelled_calls_end_without_a_result(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS, Manner.STOPPED, Manner.FULL, Manner.STOPPED])
    with guests, closing(Fanout(timeout=20.0, most=3)) as fanout:
        results = fanout.start(calls(guests.paths), time.monotonic())
        fanout.cancel(set(guests.paths[1:]))
        results += until_done(fanout)
    assert [(result.call.number, result.outcome) for result in results] == [(0, Outcome.ANSWERED)]
