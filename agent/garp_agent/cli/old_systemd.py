"""The drop-in with which the units start under an old systemd, and as tight as it allows.

Responsible for what each version lacks.  An old systemd ignores a directive that it does not know.
So only those need a line here of which a part is ignored, or whose absence stops the service.
Writes no file.

Sources: systemd's NEWS (229 to 239), systemd.exec(5), systemd.unit(5).
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

NAME = "old-systemd.conf"
UNNAMED = 219  # RHEL 7; `version_in` takes all versions before 231 for it
_LIBRARY = re.compile(r"libsystemd-shared-(\d+)")  # there is one since 231
_MULTIARCH = re.compile(r"[a-z0-9_]+-linux-gnu[a-z0-9]*")  # Debian's folders

# What @clock, @cpu-emulation, @debug, @keyring, @module, @mount, @obsolete, @raw-io and the like
# mean, for versions without groups.
_CALLS = (
    "acct add_key adjtimex bpf clock_adjtime clock_settime create_module delete_module "
    "fanotify_init finit_module get_kernel_syms init_module ioperm iopl kexec_file_load "
    "kexec_load keyctl lookup_dcookie mbind migrate_pages modify_ldt mount move_pages nfsservctl "
    "open_by_handle_at perf_event_open pivot_root process_vm_readv process_vm_writev ptrace "
    "query_module quotactl reboot request_key setdomainname sethostname settimeofday swapoff "
    "swapon sysfs syslog umount2 uselib userfaultfd ustat vhangup vm86 vm86old"
)


class Rule(NamedTuple):
    """Lines for all versions before one."""

    before: int
    lines: tuple[str, ...]
    reason: str


RULES = (
    Rule(
        230,
        ("StartLimitInterval=0",),
        "StartLimitIntervalSec= has its older name and section: restart without a limit.",
    ),
    Rule(
        232,
        ("ProtectSystem=full",),
        "ProtectSystem=strict is unknown and would protect nothing.  There is no DynamicUser=\n"
        "# either: the service runs as root, with the capabilities of the unit only.",
    ),
    Rule(
        239,
        ("SystemCallFilter=",),
        "@system-service is unknown.  Without it the list allows nothing, and Python is killed\n"
        "# before its first line.  Forbid calls instead.",
    ),
    Rule(
        231,
        (f"SystemCallFilter=~{_CALLS}",),
        "There are no groups of calls.",
    ),
    Rule(
        239,
        (
            "SystemCallFilter=~@clock @cpu-emulation @debug @keyring @module @mount @obsolete "
            "@privileged @raw-io @resources",
        ),
        "A group that a version does not know is ignored, and that is harmless in this list.",
    ),
)


def drop_in(version: int) -> str:
    """Return the text of the drop-in for a version of systemd; "" if the units need none."""
    parts = [
        f"# {rule.reason}\n" + "".join(f"{line}\n" for line in rule.lines)
        for rule in RULES
        if version < rule.before
    ]
    if not parts:
        return ""
    return f"# For systemd {version}.  garp-agent install writes and removes it.\n[Service]\n" + (
        "".join(parts)
    )


def version_in(root: str) -> int | None:
    """Return the version of the systemd in a tree, by its files; None if there is none."""
    folders = [path for path in _folders(root) if os.path.isdir(path)]
    names = [name for folder in folders for name in os.listdir(folder)]
    found = [int(match.group(1)) for match in map(_LIBRARY.match, names) if match]
    if found:
        return max(found)
    return UNNAMED if "systemd" in names else None


def _folders(root: str) -> list[str]:
    """Return where the files of systemd may be."""
    tops = [os.path.join(root, each) for each in ("lib", "usr/lib", "lib64", "usr/lib64")]
    architectures = [
        os.path.join(top, each)
        for top in tops[:2]
        if os.path.isdir(top)
        for each in os.listdir(top)
        if _MULTIARCH.fullmatch(each)
    ]
    return [os.path.join(each, "systemd") for each in (*tops, *architectures)]
