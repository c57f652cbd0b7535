"""A hint from a shell, as the protocol's page has it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.guests import Guests, Manner
from garp_agent.wire.protocol import Burst

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_pages_shell_command_hints(short_path: Path) -> None:
    if not shutil.which("socat"):
        pytest.skip("needs `socat` (Debian package socat)")
    [command] = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        mine = re.sub(r"(?<=UNIX-CONNECT:)[^,]*", guests.paths[0], command)
        assert guests.paths[0] in mine
        done = subprocess.run(["sh", "-c", mine], stdout=subprocess.PIPE, timeout=60, check=True)
        assert guests.requests(0) == [Burst(reason="maintenance")]
    assert json.loads(done.stdout)["return"]["frames"] == 1
