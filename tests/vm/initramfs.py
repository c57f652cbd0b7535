"""Archives that a kernel unpacks as its first root file system: the newc cpio format.

Decides nothing about what goes into an image (``images`` does).  The kernel accepts
several archives one after the other, so a cached base is followed by small overlays
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


class Entry(NamedTuple):
    """One file, folder, symbolic link (content is the target) or device node."""

    name: str  # relative, "/" between parts
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, content: bytes, *, executable: bool = False) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def device(name: str, major: int, minor: int) -> Entry:
    """A character device."""
    return Entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))


def tree(root: Path, below: str = "") -> Iterator[Entry]:
    """Every file under a folder, its names relative to it and put below ``below``."""
    for path in sorted(root.rglob("*")):
        name = os.path.join(below, path.relative_to(root))
        if path.is_symlink():
            yield link(name, os.readlink(path))
        elif path.is_dir():
            yield folder(name)
        else:
            yield file(name, path.read_bytes(), executable=os.access(path, os.X_OK))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries, their parent folders added where missing."""
    pieces = [
        _header_and_content(number, entry)
        for number, entry in enumerate(_with_parents(entries), start=1)
    ]
    pieces.append(_header_and_content(0, Entry(TRAILER, 0)))
    return b"".join(pieces)


def _with_parents(entries: Iterable[Entry]) -> Iterator[Entry]:
    seen: set[str] = set()
    for entry in entries:
        parts = entry.name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in seen:
                seen.add(parent)
                yield folder(parent)
        if entry.name not in seen:
            seen.add(entry.name)
            yield entry


def _header_and_content(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # owner
        0,  # group
        links,
        0,  # modification time: none, so that equal recipes give equal archives
        len(entry.content),
        0,
        0,
        *entry.device,
        len(name),
        0,  # checksum, unused in this variant
    )
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
