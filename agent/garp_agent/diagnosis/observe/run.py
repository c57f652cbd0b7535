"""``garp-agent watch``: shows the announcements on the wire, or in a capture file, as they come.

Sends nothing.  Exit status: 0; 1 when ``--count`` was not reached, or a file or a link cannot be
used; 77 without permission to listen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

from garp_agent.diagnosis.capture import Capture, Frame
from garp_agent.diagnosis.capture_file import (
    CaptureFileError,
    StoredFrame,
    read_capture,
    write_frame,
    write_header,
)
from garp_agent.diagnosis.observe.observer import Observer, SeenAnnouncement
from garp_agent.diagnosis.observe.table import Table, as_json, summary
from garp_agent.diagnosis.sighting import dissect
from garp_agent.render.table import PIPE, Screen, printable
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_PERMISSION

if TYPE_CHECKING:
    from types import FrameType

FILE = "file"  # stands where an interface's name would


class Wanted(NamedTuple):
    """What the command line asked for."""

    interfaces: tuple[str, ...] = ()
    read: str | None = None
    write: str | None = None
    as_json: bool = False
    most: int | None = None  # announcements
    seconds: float | None = None


class WatchError(Exception):
    """The command cannot watch; the text says why."""


def run(wanted: Wanted, screen: Screen = PIPE) -> int:
    """Watch until the count, the time or Ctrl-C ends it; return the exit status."""
    observer = Observer(own_hardware_addresses())
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(wanted, observer, screen)
    except BrokenPipeError:  # the reader has gone
        _discard_output()
        return 0
    except OSError as error:
        if not isinstance(error, PermissionError) or error.filename:
            return _print_error(
                f"{error.filename}: {error.strerror}" if error.filename else str(error)
            )
        _print_error("no permission to listen: run it as root, or give it CAP_NET_RAW")
        return EXIT_NO_PERMISSION
    except WatchError as error:
        return _print_error(str(error))
    if not wanted.as_json:
        text = summary(observer.seen, observer.own, observer.irregular)
        print(f"garp-agent watch: {text}", file=sys.stderr)
    return int(wanted.most is not None and observer.seen < wanted.most)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _discard_output() -> None:
    """Redirect the output, because the interpreter flushes it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_line(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise WatchError(f"the output could not be written: {error.strerror}") from None


def _print_error(text: str) -> int:
    print(f"garp-agent watch: {printable(text)}", file=sys.stderr)
    return EXIT_FAILED


def _watch(wanted: Wanted, observer: Observer, screen: Screen) -> None:
    def enough() -> bool:
        return wanted.most is not None and observer.seen >= wanted.most

    if wanted.read and wanted.write and _are_one(wanted.read, wanted.write):
        raise WatchError(f"{wanted.write}: is the file that --read reads: write another file")
    with contextlib.ExitStack() as open_files:
        interfaces = [FILE] if wanted.read else _interfaces(wanted.interfaces)
        if wanted.read:
            frames: Iterable[Frame] = _read_capture(wanted.read)
        else:
            capture = open_files.enter_context(Capture(interfaces, promiscuous=True))
            if capture.unheard:
                raise WatchError("; ".join(f"{one}: {why}" for one, why in capture.unheard.items()))
            frames = capture.frames(wanted.seconds, enough)
        keep = _writer(wanted.write, open_files) if wanted.write else None
        show = _show(wanted, interfaces, screen)
        for frame in frames:
            sighting = dissect(frame.data)
            if sighting is None:
                continue
            if keep:  # before it is shown: Ctrl-C may come in between
                keep(frame)
            show(observer.see(frame.interface, sighting, frame.when))
            if enough():
                return


def _show(
    wanted: Wanted, interfaces: list[str], screen: Screen
) -> Callable[[SeenAnnouncement], None]:
    if wanted.as_json:
        return lambda seen: _print_line(as_json(seen))
    table = Table(interfaces, screen)
    _print_line(table.header())
    return lambda seen: _print_line(table.row(seen))


# -- sources and files ------------------------------------------------------------------


def own_hardware_addresses() -> set[str]:
    """Return the hardware addresses of this machine's interfaces, from sysfs."""
    found = set()
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError):  # gone, or no sysfs
            found.add(Path("/sys/class/net", name, "address").read_text().strip())
    return found - {"00:00:00:00:00:00"}


def _interfaces(named: tuple[str, ...]) -> list[str]:
    there = [name for _, name in socket.if_nameindex()]
    unknown = [name for name in named if name not in there]
    if unknown:
        raise WatchError(f"{', '.join(unknown)}: no such interface; there are: {', '.join(there)}")
    if named:
        return list(named)
    from garp_agent.config.settings import Settings
    from garp_agent.guest import once

    suitable = [plan.link.name for plan in once.plans(Settings()) if plan.skip is None]
    if not suitable:
        raise WatchError("no interface to watch; `garp-agent list` says why; or name one")
    return suitable


def _are_one(read: str, write: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samefile(read, write)
    return False


def _read_capture(path: str) -> Iterator[Frame]:
    try:
        with open(path, "rb") as file:
            for when, data in read_capture(file):
                yield Frame(FILE, when, data)
    except CaptureFileError as error:
        raise WatchError(f"{path}: {error}") from None


def _unwritten(path: str, error: OSError) -> WatchError:
    return WatchError(f"{path}: could not be written: {error.strerror}")


def _writer(path: str, open_files: contextlib.ExitStack) -> Callable[[Frame], None]:
    file = open_files.enter_context(open(path, "wb", buffering=0))  # noqa: SIM115 -- closed by the caller
    try:
        write_header(file)  # at once: a capture without frames is a valid file, too
    except OSError as error:
        raise _unwritten(path, error) from None

    def write(frame: Frame) -> None:
        try:
            write_frame(file, StoredFrame(frame.when, frame.data))
        except OSError as error:
            raise _unwritten(path, error) from None

    return write
