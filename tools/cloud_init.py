#!/usr/bin/env python3
"""Prints user data for cloud-init that brings the single-file garp-agent along.

Some clouds take no more than 16 KiB of user data, and none of this fits there: put the file
into the image, or use packages.  NoCloud, ConfigDrive and most private clouds take it.  The
file is built without compiled code, which makes it small and its first start slower.
"""

from __future__ import annotations

import base64
import gzip
import sys
import tempfile
from pathlib import Path

import build_pyz

TEMPLATE = build_pyz.ROOT / "contrib" / "cloud-init" / "no-repository.yaml"


def user_data() -> str:
    """The template with the file in it."""
    with tempfile.TemporaryDirectory() as scratch:
        pyz = Path(scratch) / "garp-agent.pyz"
        build_pyz.build(pyz, [])
        packed = gzip.compress(pyz.read_bytes(), mtime=0)
    return TEMPLATE.read_text().replace(
        '"@GARP_AGENT_PYZ@"', f'"{base64.b64encode(packed).decode()}"'
    )


if __name__ == "__main__":
    try:
        sys.stdout.write(user_data())
    except build_pyz.BuildError as error:
        sys.exit(f"cloud_init: {error}")
