"""Frames and datagrams that do not come from our own encoder, annotated field by field.

A file holds hexadecimal bytes; `#` begins a comment.  The first lines say where the bytes come
from.  Netlink is in little-endian byte order.  The length of a netlink attribute leaves out the
zero bytes that pad it to a multiple of four.

A file with a line "as FOLDER/FILE, but" has the bytes of that file, except for the changes below
it, in their order: bytes after `-` are left out, and the lines that follow stand in their place.
"""

from __future__ import annotations

import re
from pathlib import Path

_HERE = Path(__file__).parent


def read(name: str) -> bytes:
    """Return the bytes of one file; `name` is "folder/file" without the suffix."""
    done, rest = b"", b""
    for line in (_HERE / f"{name}.hex").read_text(encoding="ascii").splitlines():
        code = line.partition("#")[0]
        if code.startswith("as "):
            rest = read(re.sub("^as |, but$", "", code))
        elif code.startswith("-"):
            same, old, rest = rest.partition(bytes.fromhex(code[1:]))
            assert old, f"{name}: {code} is not there"
            done += same
        else:
            done += bytes.fromhex(code)
    return done + rest


def names(folder: str) -> list[str]:
    """Return the sorted names of all files in one folder, as `read` takes them."""
    return sorted(f"{folder}/{path.stem}" for path in (_HERE / folder).glob("*.hex"))
