"""The running daemon without the files it was loaded from: it continues with what it has."""

from __future__ import annotations

import json
import signal
from contextlib import closing

import pytest

from bench.lab import GUEST_ADDRESS
from garp_agent.runtime import client
from tests import faults
from tests.netns.agent import NO_BUCKET, QUIET, Agent, Site, until
from tests.netns.hint_host import SocketHost

FAST = "interval: 100ms\naddresses_per_tick: 32\nburst: [0s]\n" + NO_BUCKET
HINT = {"execute": "burst", "arguments": {"reason": 'two words, "quoted" \N{SNOWMAN}'}}


def wait_for_refusals(agent: Agent, count: int) -> None:
    refused = "configuration-refused"
    until(lambda: agent.log_text().count(refused) >= count, f"reload {count} is refused")


@pytest.mark.parametrize("loss", faults.LOSSES)
@pytest.mark.parametrize("form", ["json", "text"])
def test_agent_without_library_or_descriptors_continues(site: Site, loss: str, form: str) -> None:
    with closing(SocketHost(site.directory)) as host:
        options = ("--hint-port", str(host.path), "--log-format", form)
        agent = site.start(*options, config=QUIET + NO_BUCKET, prefix=faults.OWN_MOUNTS, wait=False)
        with closing(host.connected()) as line:
            # The first reply; from now on it has what it needs.
            until(lambda: "hint-port" in agent.log_text(), "the agent is ready")
            for take_away in faults.LOSSES[loss]:
                take_away(agent.pid)
            site.wire.clear()
            answers = line.ask(json.dumps(HINT).encode())
            site.wire.wait_for(GUEST_ADDRESS)
            site.guest("address add 192.0.2.77/24 dev eth0")
            site.wire.wait_for("192.0.2.77")
            answers += line.ask(
                b"nonsense \xfe",
                b'{"execute": "lease", "arguments": {"seconds": 90}}',
                b'{"execute": "status", "id": 1e999}',
                b"[" * 3000,
                b'{"execute": "info"}',
            )
            for count in (1, 2):
                agent.kill(signal.SIGHUP)
                agent.kill(signal.SIGUSR1)
                wait_for_refusals(agent, count)
            if loss == "library":  # else it refuses clients
                assert agent.status()["pid"] == agent.pid
                assert agent.burst() == 2
            site.guest("address del 192.0.2.77/24 dev eth0", "link set eth0 down")
            until(lambda: "link-withdrawn" in agent.log_text(), "the withdrawal")
            assert agent.stop() == 0, agent.log_text()
        assert [list(answer) for answer in answers] == [
            ["return"], ["error"], ["return"], ["error"], ["error"], ["return"]
        ]  # fmt: skip


def test_reload_after_run_became_read_only_moves_the_control_socket(site: Site) -> None:
    run, other = site.directory / "run", site.directory / "other.sock"
    run.mkdir()
    mount = f'mount -t tmpfs none {run} && exec "$0" "$@"'
    prefix = (*faults.OWN_MOUNTS, "sh", "-c", mount)
    with site.start(prefix=prefix, wait=False) as agent:
        site.wire.wait_for(GUEST_ADDRESS)
        for number, path in enumerate((run / "control.sock", other), 1):
            agent.control = path
            agent.reload(QUIET)
            agent.wait_for_log("configuration-loaded", number)
            faults.in_mounts_of(agent.pid, "mount", "-o", "remount,ro", str(run))
        assert agent.status()["pid"] == agent.pid


def test_status_without_memory_for_it_is_refused_and_announcing_continues(site: Site) -> None:
    many = [f"10.{n // 250}.{n % 250}.1" for n in range(8000)]
    with site.start(config=QUIET + NO_BUCKET) as agent:
        site.guest(*(f"address add {each}/32 dev eth0" for each in many))
        until(lambda: len(agent.addresses()) > len(many), "it knows all")
        with faults.no_more_memory(agent.pid), pytest.raises(client.ClientError, match="memory"):
            agent.status()
        assert len(agent.addresses()) > len(many)
        site.guest(*(f"address del {each}/32 dev eth0" for each in many))
        # The kernel may have lost events of so many, so that a new dump tells the rest.
        until(lambda: len(agent.addresses()) == 1, "it knows what is left")
        assert agent.burst() == 1


def test_agent_without_memory_for_kernel_messages_continues_and_misses_nothing(site: Site) -> None:
    """It knows fewer addresses than the guest has, and announces the others meanwhile."""
    gone, added = "192.0.2.78", [f"10.{n // 250}.{n % 250}.1" for n in range(500)]
    site.guest(f"address add {gone}/24 dev eth0")
    with site.start(config=FAST, prefix=faults.NO_ARENAS) as agent:
        with faults.no_more_memory(agent.pid):
            site.guest(*(f"address add {each}/32 dev eth0" for each in added))
            assert agent.wait_for_log("out-of-memory")["action"] == "reading everything anew"
            site.guest(f"address del {gone}/24 dev eth0")
            site.wire.clear()
            site.wire.wait_for(GUEST_ADDRESS, count=5)
        until(lambda: agent.announced() == {GUEST_ADDRESS, *added}, "nothing is missed")
        assert agent.sent_by("refresh")
        site.guest(f"address add {gone}/24 dev eth0")
        site.wire.clear()
        site.wire.wait_for(gone)
