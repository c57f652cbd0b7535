"""Frames and datagrams that do not come from our own code, annotated field by field.

A file holds hexadecimal bytes; from ``#`` to the end of a line is comment, and the
first lines say where the bytes come from.  Netlink is in little-endian byte order.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def read(name: str) -> bytes:
    """The bytes of one file, named without its suffix."""
    lines = (_HERE / f"{name}.hex").read_text(encoding="ascii").splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def names(folder: str) -> list[str]:
    """The names of all the files in one folder, as :func:`read` takes them."""
    return sorted(f"{folder}/{path.stem}" for path in (_HERE / folder).glob("*.hex"))
