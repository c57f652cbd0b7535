"""The hint port of the running daemon, over a Unix socket and over a terminal line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from tests.netns.agent import NO_BUCKET, QUIET, Agent, Site, meanwhile, until
from tests.netns.hint_host import HOSTS, Host, Line, SocketHost, TerminalHost

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


def test_burst_hint_is_answered_after_its_frames(site: Site, host: Host) -> None:
    with connected(site, host, QUIET) as (agent, line), closing(line):
        site.wire.clear()
        before = agent.status()["hint_port"]["requests"]
        for n in range(1, 4):
            (reply,) = line.ask(b"BURST")
            assert len(site.wire.announcements(GUEST_ADDRESS)) == n
            assert reply["return"]["frames"] == 1
        info, refused = line.ask(b'{"execute": "info"}', b'{"execute": "status"}')
        links = [{"name": "eth0", "mac": GUEST_MAC, "addresses": [GUEST_ADDRESS]}]
        assert info["return"]["links"] == links
        assert set(refused) == {"error"}
        status = agent.status()["hint_port"]
        assert (status["requests"], status["errors"]) == (before + 4, 1)
        rounds = b'{"reason": "bond0: eth1 -> eth2", "count": 4, "interval": 0.05, "delay": 0.05}'
        (reply,) = line.ask(b'{"execute": "burst", "arguments": %s, "id": 7}' % rounds)
        assert (reply["id"], reply["return"]["frames"]) == (7, 0)
        assert reply["return"]["offsets"] == [0.05, 0.1, 0.15, 0.2]
        until(lambda: (agent.link("eth0") or {})["last_burst"]["over"], "the burst is over")
        assert agent.log("burst", cause="hint")[-1]["reason"] == "bond0: eth1 -> eth2"
        assert 4 <= agent.sent_by("hint") <= 7  # a busy machine misses rounds


@pytest.mark.parametrize("flood", [b"x" * 4000, b"\n" * 4000, b"\xff" * 4000, b"BURST\n" * 600])
def test_endless_input_does_not_keep_it_from_kernel_events_and_announcing(
    site: Site, flood: bytes
) -> None:
    host = SocketHost(site.directory)
    with closing(host), connected(site, host, TICKING) as (agent, line):
        with meanwhile(lambda: line.exchange(flood)):
            agent.send_more(3)
            site.guest("address add 192.0.2.50/24 dev eth0")
            site.wire.wait_for("192.0.2.50")
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
        assert status["hint_port"]["state"] in ("open", "open, host connected")
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


def test_port_that_hangs_up_is_opened_again_at_once_and_ends_the_lease(
    site: Site, host: Host
) -> None:
    """As a Xen channel does at each restore, also shortly after the one before.

    Nothing else wakes this agent: its next refresh is minutes away.
    """
    with connected(site, host, QUIET) as (agent, first):
        line = first
        for _ in range(4):
            line.ask(b'{"execute": "lease", "arguments": {"seconds": 600}}')
            assert agent.status()["lease"] > 0
            line.close()
            line = host.connected()
            assert line.ask(b"BURST")[0]["return"]["frames"] == 1
            assert agent.status()["lease"] is None
        line.close()


def test_terminal_gets_few_bytes_of_replies_at_a_time(site: Site) -> None:
    """More would wait in the ring of a Xen console, and a full ring stops the guest."""
    site.guest(*(f"address add 10.100.100.{n}/32 dev eth0" for n in range(100, 160)))
    host = TerminalHost(site.directory)
    with closing(host), connected(site, host, QUIET + NO_BUCKET) as (agent, line):
        before = agent.status()["hint_port"]["requests"]
        line.send(*[b'{"execute": "info", "id": 1}'] * 30)  # 870 bytes, which come in few reads
        until(lambda: agent.status()["hint_port"]["requests"] == before + 30, "all are read")
        line.send(b'{"execute": "sync", "id": 2}')
        replies: list[dict[str, Any]] = []
        while not replies or replies[-1]["id"] != 2:
            replies.append(line.reply())
        info = replies[0]
        assert len(json.dumps(info)) < 700
        assert info["return"]["omitted"] > 50
        assert info["return"]["links"][0]["addresses"]
        assert len(replies) < 15
        (refused,) = line.ask(b'{"execute": "sync", "id": "%s"}' % (b"\\u1234" * 128))
        assert refused["error"]["class"] == "Failed"
        line.close()


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere"])
def test_path_that_is_no_port_is_reported_and_opened_once_it_is_one(
    site: Site, target: str
) -> None:
    path = site.directory / "hint"
    path.symlink_to(site.directory / target)
    with site.start("--hint-port", str(path), config=TICKING) as agent:
        state = agent.wait_for_log("hint-port")["state"]
        assert state in ("forbidden", "absent")
        assert agent.status()["hint_port"]["state"] == state
        agent.send_more(3)
        path.unlink()
        with closing(SocketHost(site.directory)) as host, closing(host.connected()) as line:
            # A refresh may fall due at the same moment.
            assert line.ask(b"BURST")[0]["return"]["frames"] >= 1


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
