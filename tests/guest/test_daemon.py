"""AgentDaemon: what it has loaded when it is ready.  More of the daemon is tested in netns/."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
from pathlib import Path

import pytest

from bench.lab import TinyLab

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
