"""keepalived in a namespace of a lab: one VRRP instance on eth0."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.lab import Lab

CONFIG = """\
global_defs {{
    vrrp_version 3
    vrrp_garp_master_delay 1
}}
vrrp_instance test {{
    interface eth0
    state BACKUP
    virtual_router_id 51
    priority {priority}
    {more}
    virtual_ipaddress {{
        {address}
    }}
}}
"""


def start_keepalived(
    lab: Lab, role: str, directory: Path, address: str, priority: int, *more: str
) -> subprocess.Popen[str]:
    """Start keepalived with a virtual address, and ``more`` lines; skip the test without it.

    Its files are in a new folder of ``directory``.
    """
    program = shutil.which("keepalived")
    if not program:
        pytest.skip("needs `keepalived` (Debian package keepalived)")
    own = directory / role
    own.mkdir()
    file = own / "keepalived.conf"
    lines = "\n    ".join(more)
    file.write_text(CONFIG.format(address=address, priority=priority, more=lines))
    files = [f"--{name}={own / name}" for name in ("pid", "vrrp_pid")]
    command = [program, "-n", "-P", "-D", "-l", "-f", str(file), *files]
    with open(own / "log", "wb") as log:
        return lab.start(role, command, stdout=log, stderr=log)
