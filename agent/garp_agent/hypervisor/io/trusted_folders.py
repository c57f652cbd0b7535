"""Where a path leads, and whether others could have put something else there.

Responsible for which folders are trusted.  Does not search (hypervisor.io.channels).  A folder is
trusted if only root and the user of this process may write to it.  Below libvirt's folders, and
where the operator has vouched for a path, any owner and group is trusted.  A folder that all may
write to is never trusted; with the sticky bit, what root or this user owns in it is.

A path can be one of another mount namespace, /proc/PID/root/...  The kernel would resolve its
absolute symbolic links from our root (proc_pid_root(5)), so they are resolved here.
"""

from __future__ import annotations

import errno
import os
import stat

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    File = tuple[int, int]  # the identity of a file: device and inode, as stat(2) gives them

LIBVIRT = ("/run/libvirt", "/var/lib/libvirt")  # only root and libvirt make folders below
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENOTSOCK)  # of a path that leads to no socket
LINKS_MOST = 40  # symbolic links in one path, as in the kernel


class UntrustedError(Exception):
    """Others may write to a folder on the way; the text says which."""


class Place(NamedTuple):
    """The socket to which a path leads."""

    path: str  # without symbolic links
    file: File


class Places:
    """The answers of one search: each folder is looked at once."""

    def __init__(self) -> None:
        self._folders: dict[str, os.stat_result] = {}
        self._owners = {0, os.geteuid()}

    def locate(self, path: str, base: str = "", vouched: bool = False) -> Place:
        """Return the socket to which ``path`` leads in the mount namespace at ``base``.

        ``base``: /proc/PID/root, or "" for our namespace.
        ``vouched``: the operator has named the path.  Raises OSError, UntrustedError.
        """
        resolved = self._resolve(path, base, vouched)
        found = os.lstat(base + resolved)
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        return Place(base + resolved, (found.st_dev, found.st_ino))

    def folder(self, path: str, base: str) -> str:
        """Return the folder to which ``path`` leads, without symbolic links.  Raises OSError."""
        return self._resolve(path, base, vouched=True)

    def _resolve(self, path: str, base: str, vouched: bool) -> str:
        pending = path.split("/")[::-1]
        names: list[str] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                names[-1:] = []
            if name in ("", ".", ".."):
                continue
            folder = "/" + "/".join(names)
            entry = f"{base}{folder.rstrip('/')}/{name}"
            is_open = self._is_open(folder, base, vouched)  # before others' entries are looked at
            found = self._folders.get(entry) or os.lstat(entry)
            is_kept = self._is_sticky(folder, base) and found.st_uid in self._owners
            if is_open and (stat.S_ISSOCK(found.st_mode) or not is_kept):
                raise UntrustedError(f"others may write to its folder {folder}")
            if not stat.S_ISLNK(found.st_mode):
                names.append(name)
                if stat.S_ISDIR(found.st_mode):
                    self._folders[entry] = found
                continue
            links += 1
            if links > LINKS_MOST:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(entry)
            if target.startswith("/"):
                names.clear()
            pending += target.split("/")[::-1]
        return "/" + "/".join(names)

    def _is_open(self, folder: str, base: str, vouched: bool) -> bool:
        """Return whether others may write to a folder.  Raises UntrustedError for its owner."""
        found = self._folder(folder, base)
        vouched = vouched or f"{folder}/".startswith(tuple(f"{each}/" for each in LIBVIRT))
        if not vouched and found.st_uid not in self._owners:
            raise UntrustedError(f"its folder {folder} belongs to user {found.st_uid}")
        by_group = found.st_mode & stat.S_IWGRP and found.st_gid and not vouched
        return bool(by_group or found.st_mode & stat.S_IWOTH)

    def _is_sticky(self, folder: str, base: str) -> bool:
        return bool(self._folder(folder, base).st_mode & stat.S_ISVTX)

    def _folder(self, folder: str, base: str) -> os.stat_result:
        found = self._folders.get(base + folder)
        if found is None:
            found = self._folders[base + folder] = os.stat(f"{base}{folder}/")
        return found


def is_still(path: str, file: File) -> bool:
    """Return whether the same file is at a path that locate() gave; true if that cannot be known.

    The folders need no second look: what other users put there is another file.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        return error.errno not in ABSENT
    return (found.st_dev, found.st_ino) == file


def superblock_device(path: str) -> File:
    """Return major and minor device number of the file system that holds ``path``.

    With btrfs and overlayfs they are not those that stat(2) gives.  Raises OSError.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split(None, 3)
            if fields[0].decode() == mount:
                major, _, minor = fields[2].partition(b":")
                return int(major), int(minor)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
