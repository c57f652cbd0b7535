#!/usr/bin/env python3
"""Print user data for cloud-init that contains the single-file garp-agent.

It is too long for clouds that take 16 KiB of user data.  It contains no compiled code, and
only the source for all Pythons from 3.6 on: that makes it smaller, and each start slower.
"""

from __future__ import annotations

import base64
import gzip
import sys
import tempfile
from pathlib import Path

import build_pyz

if __name__ == "__main__":
    template = (build_pyz.ROOT / "contrib" / "cloud-init" / "no-repository.yaml").read_text()
    with tempfile.TemporaryDirectory() as scratch:
        pyz = Path(scratch) / "garp-agent.pyz"
        build_pyz.build(pyz, [], [build_pyz.OLD_SOURCE])
        packed = base64.b64encode(gzip.compress(pyz.read_bytes(), mtime=0)).decode()
    sys.stdout.write(template.replace('"@GARP_AGENT_PYZ@"', f'"{packed}"'))
