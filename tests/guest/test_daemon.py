"""AgentDaemon: what it has loaded when it is ready.  More of the daemon is tested in netns/."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from bench.lab import TinyLab
from garp_agent.config.settings import Settings
from garp_agent.guest.daemon import AgentDaemon
from garp_agent.guest.io.packet import PacketSender
from garp_agent.guest.options import RunOptions
from garp_agent.runtime.log import Log
from garp_agent.wire.model import LEVEL_ERROR

pytestmark = pytest.mark.netns

LIMIT = 30.0
LINES = [
    b'\xff{"execute": "burst", "arguments": {"reason": "two words"}}',
    b'\xff{"execute": "lease", "arguments": {"seconds": 90}}',
    b"\xffno request\xfe",
    b'\xff{"execute": "info"}',
    b'\xff{"execute": "sync"}',
]


def test_a_ready_agent_answers_and_logs_without_free_descriptors(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    """What it would load only now, it could not load."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hint"))
        listener.listen()
        listener.settimeout(LIMIT)
        config = f"hint_port: {tmp_path}/hint\ncontrol_socket: none\nburst: [0s]\n"
        (tmp_path / "config").write_text(config)
        agent = tiny_lab.start_agent(
            "guest", "--config", str(tmp_path / "config"), stderr=subprocess.PIPE
        )
        host, _ = listener.accept()  # the last that the agent opens
        used = {int(name) for name in os.listdir(f"/proc/{agent.pid}/fd")}
        first_free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (first_free, first_free))
        with host:
            host.settimeout(LIMIT)
            host.sendall(b"\n".join([*LINES, b""]))
            with host.makefile("rb") as file:
                replies = [json.loads(file.readline().lstrip(b"\xff")) for _ in LINES]
        agent.terminate()
        _, log = agent.communicate(timeout=LIMIT)
    assert [list(reply) for reply in replies] == [["return"]] * 2 + [["error"]] + [["return"]] * 2
    assert replies[0]["return"]["frames"] == 1
    assert replies[2]["error"]["class"] == "InvalidJSON"
    assert 'burst cause=hint reason="two words"' in log
    assert agent.returncode == 0


def test_a_reload_before_the_first_frames_does_not_make_it_ready(
    tiny_lab: TinyLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file and no options: such a reload is over at once."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with tiny_lab.entered("guest"):
            settings = Settings(control_socket="", hint_port="")
            daemon = AgentDaemon(RunOptions(), settings, PacketSender(), Log(LEVEL_ERROR))

        def end_when_reloaded() -> None:
            while not said or "reloaded" not in said[-1]:
                said.append(manager.recv(100).decode())
            os.kill(os.getpid(), signal.SIGTERM)

        ending = threading.Thread(target=end_when_reloaded)
        ending.start()
        os.kill(os.getpid(), signal.SIGHUP)
        daemon.run()
        ending.join()
        assert daemon._notify._socket is not None
        daemon._notify._socket.close()
    assert said == ["READY=1", "RELOADING=1", "READY=1\nSTATUS=configuration reloaded"]
