"""Frames and datagrams that do not come from our own encoder, annotated field by field.

A file holds hexadecimal bytes; `#` begins a comment.  The first lines say where the bytes come
from.  Netlink is in little-endian byte order.  The length of a netlink attribute leaves out the
zero bytes that pad it to a multiple of four.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def read(name: str) -> bytes:
    """Return the bytes of one file; `name` is "folder/file" without the suffix."""
    lines = (_HERE / f"{name}.hex").read_text(encoding="ascii").splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def names(folder: str) -> list[str]:
    """Return the sorted names of all files in one folder, as `read` takes them."""
    return sorted(f"{folder}/{path.stem}" for path in (_HERE / folder).glob("*.hex"))
