"""The hint port of the running daemon, over a Unix socket and over a terminal line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from tests.netns.agent import LIMIT, NO_BUCKET, QUIET, Agent, Site, until
from tests.netns.hint_host import HOSTS, Host, Line, SocketHost

# With refreshes, at which the agent tries again to open a closed port.
TICKING = "interval: 200ms\ninterval_with_lease: 60s\njitter: 0%\nburst: [0s]\n" + NO_BUCKET


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with closing(HOSTS[request.param](tmp_path)) as made:
        yield made


@contextmanager
def connected(site: Site, host: Host, config: str) -> Iterator[tuple[Agent, Line]]:
    """Start an agent whose port can be opened at once, as there may be no refresh."""
    with ThreadPoolExecutor(1) as pool:
        line = pool.submit(host.connected)
        until(lambda: host.path.exists() or line.done(), "there is something to open")
        with site.start("--hint-port", str(host.path), config=config) as agent:
            yield agent, line.result()


@pytest.fixture
def hinted(site: Site, host: Host) -> Iterator[tuple[Agent, Line]]:
    """An agent that announces only when it is told to, and the host's line to it."""
    with connected(site, host, QUIET) as (agent, line):
        yield agent, line
    line.close()


def test_burst_hint_is_answered_after_its_frames(hinted: tuple[Agent, Line], site: Site) -> None:
    agent, line = hinted
    site.wire.clear()
    for n in range(1, 4):
        (reply,) = line.ask(b"BURST")
        assert len(site.wire.announcements(GUEST_ADDRESS)) == n
        assert reply["return"]["frames"] == 1
    assert agent.sent_by("hint") == 3
    (info,) = line.ask(b'{"execute": "info"}')
    links = [{"name": "eth0", "mac": GUEST_MAC, "addresses": [GUEST_ADDRESS]}]
    assert info["return"]["links"] == links
    assert agent.status()["hint_port"]["requests"] == 4


def test_burst_hint_with_rounds_and_delay_sends_each_round(
    hinted: tuple[Agent, Line], site: Site
) -> None:
    agent, line = hinted
    site.wire.clear()
    asked = {"reason": "bond0: eth1 -> eth2", "count": 4, "interval": 0.05, "delay": 0.05}
    (reply,) = line.ask(json.dumps({"execute": "burst", "arguments": asked, "id": 7}).encode())
    assert reply["id"] == 7
    assert reply["return"]["offsets"] == [0.05, 0.1, 0.15, 0.2]
    assert reply["return"]["frames"] == 0
    site.wire.wait_for(GUEST_ADDRESS, count=4)
    assert agent.wait_for_log("burst", cause="hint")["reason"] == "bond0: eth1 -> eth2"
    assert agent.sent_by("hint") == 4


def test_garbage_is_answered_with_errors_and_changes_nothing(hinted: tuple[Agent, Line]) -> None:
    agent, line = hinted
    garbage = [
        b"GET / HTTP/1.1\r",
        b"\x00\x01\x02\x03\x04\x11\x13\x1a\x1c\x7f",  # control characters of a terminal
        b"\x80\xfe\xc3(",
        b"[" * 3000,
        b'{"execute": "burst", "execute": "burst"}',
        b'{"execute": "status"}',
        b'{"execute": "burst", "arguments": {"count": 1e999}}',
    ]
    for sent in garbage:
        (reply,) = line.ask(sent)
        assert set(reply) == {"error"}, sent
    # A delimiter ends a line that was begun.
    line.send(b'{"execute": "bur\xff{"execute": "sync", "id": 42}')
    assert line.reply() == {"return": {}, "id": 42}
    assert line.ask(b"BURST")[0]["return"]["frames"] == 1
    status = agent.status()["hint_port"]
    assert (status["requests"], status["errors"]) == (2, len(garbage))


def test_host_that_reads_no_reply_still_gets_its_burst(hinted: tuple[Agent, Line]) -> None:
    agent, line = hinted
    os.set_blocking(line.descriptor, False)
    for _ in range(100):
        with suppress(BlockingIOError):
            line.send(*[b'{"execute": "info"}'] * 50)

    def burst() -> int:
        with suppress(BlockingIOError):
            line.send(b"\xffBURST")
        return agent.sent_by("hint")

    until(burst, "the agent reads a burst")


@pytest.mark.parametrize("flood", [b"x" * 4000, b"\n" * 4000, b"\xff" * 4000, b"BURST\n" * 600])
def test_endless_input_does_not_keep_it_from_kernel_events_and_announcing(
    site: Site, flood: bytes
) -> None:
    host = SocketHost(site.directory)
    with closing(host), connected(site, host, TICKING) as (agent, line):

        def pour() -> None:
            with suppress(OSError):
                while True:
                    os.write(line.descriptor, flood)

        def drink() -> None:
            with suppress(OSError):
                while os.read(line.descriptor, 1 << 16):
                    pass

        threads = [threading.Thread(target=each) for each in (pour, drink)]
        for each in threads:
            each.start()
        try:
            agent.send_more(3)
            site.guest("address add 192.0.2.50/24 dev eth0")
            site.wire.wait_for("192.0.2.50")
        finally:
            agent.stop()  # which hangs up, so the threads end
            for each in threads:
                each.join(LIMIT)
        line.close()


def test_lease_stretches_the_interval_until_the_host_hangs_up(site: Site, host: Host) -> None:
    lease = b'{"execute": "lease", "arguments": {"seconds": %d}}'
    with connected(site, host, TICKING) as (agent, line):
        assert line.ask(lease % 600)[0]["return"]["interval"] == 60.0
        assert agent.status()["interval"] == 60.0
        line.ask(lease % 0)
        assert agent.status()["lease"] is None
        agent.send_more(2)  # it refreshes again
        line.ask(lease % 600)
        status = agent.status()
        assert status["hint_port"]["state"] == "open, host connected"
        assert 0 < status["lease"] <= 600
        os.write(line.descriptor, b'{"execute": "burst", "arguments": {"reason": "half')
        line.close()
        # Otherwise, the agent would look for a new host once a minute, and announce as rarely.
        until(lambda: agent.status()["lease"] is None, "the lease ends")
        assert agent.status()["interval"] == 0.2
        assert agent.log("lease-ended", reason="the hint port is closed")
        with closing(host.connected()) as again:
            # The half line of the host before is forgotten.
            assert again.ask(b"BURST")[0]["return"]["frames"] == 1
        assert agent.status()["hint_port"]["errors"] == 0


def test_lease_flips_neither_flood_the_log_nor_hurry_the_refreshes(site: Site) -> None:
    """A host that grants and takes back as fast as it can."""
    flips = [b'{"execute": "lease", "arguments": {"seconds": %d}}' % n for n in (90, 0)]
    host = SocketHost(site.directory)
    with (
        closing(host),
        connected(site, host, "interval: 200s\ninterval_with_lease: 270s\n") as (agent, line),
    ):
        for _ in range(1000):
            line.ask(*flips)
        line.ask(flips[0])
        assert agent.status()["lease"] > 0
        assert agent.sent_by("refresh") <= 1
        written = len(agent.log("lease-granted") + agent.log("lease-ended"))
        assert 2 < written <= 20
        line.close()


def test_port_that_appears_after_the_start_is_opened(site: Site) -> None:
    options = ("--hint-port", str(site.directory / "hint"))
    with site.start(*options, config=TICKING) as agent:
        assert agent.status()["hint_port"]["state"] == "absent"
        with closing(SocketHost(site.directory)) as host, closing(host.connected()) as line:
            assert line.ask(b"BURST")[0]["return"]["frames"] == 1


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/full", "broken link"])
def test_path_that_is_no_port_is_reported_and_announcing_continues(site: Site, kind: str) -> None:
    path = site.directory / "hint"
    path.symlink_to(kind if kind.startswith("/") else site.directory / "nowhere")
    with site.start("--hint-port", str(path), config=TICKING) as agent:
        assert agent.wait_for_log("hint-port")["state"] not in ("open", "off")
        agent.send_more(3)
        assert "open" not in agent.status()["hint_port"]["state"]


def test_reload_closes_the_old_port_and_opens_the_new_one(site: Site) -> None:
    (site.directory / "other").mkdir()
    hosts = [SocketHost(site.directory), SocketHost(site.directory / "other")]
    lines: list[Line] = []
    with site.start() as agent:
        for host in (*hosts, hosts[0]):
            agent.reload(QUIET, host.path)
            lines.append(host.connected())
            assert lines[-1].ask(b"BURST")[0]["return"]["frames"] == 1
        agent.reload(QUIET)
        for line in lines:
            assert os.read(line.descriptor, 1) == b""  # the agent hung up
            line.close()
    for host in hosts:
        host.close()
