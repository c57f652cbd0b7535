"""Gathers what ``doctor`` judges: from the daemon, netifaces, proc(5), sysfs and the wire.

Decides what is looked at and for how long; never whether it is good.  Sends only in
:func:`wire` (asks the daemon for a burst) and :func:`claimants` (probes).
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from garp_agent.config.load import configuration_path
from garp_agent.config.settings import Settings
from garp_agent.diagnosis.capture import Tap, TapError, claimant, configured, send_probes
from garp_agent.diagnosis.doctor.facts import (
    Claimants,
    Configuration,
    Daemon,
    Facts,
    Interface,
    Kernel,
    Plan,
    Port,
    Process,
    Promise,
    Wire,
)
from garp_agent.diagnosis.sighting import Sighting, dissect
from garp_agent.guest import once
from garp_agent.guest import status as report
from garp_agent.guest.core.model import IFA_F_DADFAILED, IFA_F_TENTATIVE
from garp_agent.runtime import client

PATIENCE = 2.0  # seconds beyond what a burst takes by itself
WIRE_MOST = 20.0  # seconds that a burst is looked at
ANSWERS_WITHIN = 0.5  # seconds after each of the probes; on a segment, an answer takes some ms
PROBES = 2
NOT_WANTED = "--no-send was given"
SAME = 3  # attempts to see the daemon and the kernel at one moment
SYSCTLS = {
    "ipv4": (
        "arp_notify",
        "arp_ignore",
        "arp_filter",
        "rp_filter",
        "drop_gratuitous_arp",
        "forwarding",
    ),
    "ipv6": ("ndisc_notify", "disable_ipv6", "drop_unsolicited_na", "forwarding"),
}
# Of these the kernel uses the larger of the interface's and that of `all`, or either
# (<linux/inetdevice.h>; net/ipv6/ndisc.c).  Of the others an interface's own alone counts.
ALL_COUNTS = {
    "ipv4": ("arp_notify", "arp_ignore", "arp_filter", "rp_filter", "drop_gratuitous_arp"),
    "ipv6": ("ndisc_notify",),
}
VIRTIO_BUS = Path("/sys/bus/virtio/devices")
VIRTIO_CONSOLE = 3  # virtio 1.2, section 5
VIRTIO_PORTS = Path("/sys/class/virtio-ports")


def facts(
    path: str | None, control_socket: str | None, send: bool, tell: Callable[[Plan], None]
) -> Facts:
    """Everything there is to know; nothing is sent unless ``send``, nor before it is told."""
    configuration, settings = read_configuration(path)
    control = control_socket or settings.control_socket
    for _ in range(SAME):  # an address may come or go between the two looks
        asked = ask(control)
        links = asked.status["links"] if asked.status else report.links(once.plans(settings))
        interfaces = look_at_interfaces()
        if _agree(links, interfaces):
            break
    kernel = look_at_kernel()
    wanted = asked.status["hint_port"] if asked.status else {"name": settings.hint_port}
    planned = plan(asked, links, _why_not(kernel) if send else NOT_WANTED)
    tell(planned)
    seen = wire(asked, links, configuration, planned)
    answers = claimants(links, interfaces, planned)
    return Facts(
        asked,
        ask(control) if asked.status else asked,
        links,
        process(asked.status["pid"]) if asked.status else None,
        configuration,
        kernel,
        interfaces,
        port(wanted, asked.status["pid"] if asked.status else 0),
        seen,
        answers,
    )


def _agree(links: list[dict[str, Any]], interfaces: dict[str, Interface]) -> bool:
    known = {
        (link["interface"], address["address"])
        for link in links
        for address in link["addresses"]
        if address["address"]
    }
    seen = {(name, one) for name, each in interfaces.items() for one in each.addresses}
    unsure = {(name, one) for name, each in interfaces.items() for one in each.tentative}
    return known | unsure == seen | unsure


# -- the agent ----------------------------------------------------------------------------


def read_configuration(path: str | None) -> tuple[Configuration, Settings]:
    """The file in force, or what is wrong with it; then the defaults stand in."""
    from garp_agent.config import read as config  # the rest of this works without yaml too

    file = configuration_path(path)
    problems: tuple[str, ...] = ()
    settings = Settings()
    if file:
        try:
            settings = config.read(file)
        except config.ConfigError as error:
            problems = tuple(str(error).splitlines())
    return (
        Configuration(
            file,
            problems,
            settings.bucket.rate,
            max(settings.burst) - min(settings.burst),
            settings.conflict.hold_off,
        ),
        settings,
    )


def ask(path: str) -> Daemon:
    """The running daemon's status."""
    if not path:
        return Daemon("", error="the configuration has no control socket")
    began = time.monotonic()
    try:
        status: dict[str, Any] = client.ask(path, "status")
    except client.ClientError as error:
        return Daemon(path, error=str(error), asked_at=began, took=time.monotonic() - began)
    return Daemon(path, status, asked_at=began, took=time.monotonic() - began)


def process(pid: int) -> Process | None:
    """A process; None where it is not ours to see (another PID namespace, hidepid)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Process(
        fields["State"].split()[0],
        int(fields["Uid"].split()[1]),
        tuple(map(int, [fields["Gid"].split()[1], *fields["Groups"].split()])),
        int(fields["CapEff"], 16),
    )


# -- the machine --------------------------------------------------------------------------


def look_at_kernel() -> Kernel:
    """Its release, and whether packet sockets can be had."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return Kernel(platform.release(), may_listen=False)
    except OSError as error:
        return Kernel(platform.release(), str(error.strerror), may_listen=False)
    return Kernel(platform.release())


def look_at_interfaces() -> dict[str, Interface]:
    """Every interface as netifaces sees it; what it calls ``eth0:1`` belongs to ``eth0``."""
    import netifaces

    # It gives back names that are not UTF-8 as well as it can.
    there = {os.fsencode(name).decode(errors="replace"): name for _, name in socket.if_nameindex()}
    found: dict[str, Interface] = {}
    for label in netifaces.interfaces():
        name = there.get(label) or there.get(label.partition(":")[0], label)
        families: Any = netifaces.ifaddresses(label)
        known = found.setdefault(name, Interface("", {}, {}))
        for family in (netifaces.AF_INET, netifaces.AF_INET6):
            for entry in families.get(family, ()):
                known.addresses[entry["addr"].partition("%")[0]] = entry.get("mask", "")
        # The maintained netifaces keeps them under the one, the original under the other.
        for family in (netifaces.AF_PACKET, netifaces.AF_LINK):
            for entry in families.get(family, ()):
                found[name] = known._replace(hardware_address=entry["addr"])
    tentative = _tentative()
    return {
        name: each._replace(sysctls=_sysctls(name), tentative=tentative.get(name, ()))
        for name, each in found.items()
    }


def _tentative() -> dict[str, tuple[str, ...]]:
    """The IPv6 addresses whose duplicate address detection goes on, if_inet6 of proc(5)."""
    found: dict[str, tuple[str, ...]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(errors="surrogateescape").splitlines():
            address, _, _, _, flags, name = line.split()
            if int(flags, 16) & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == IFA_F_TENTATIVE:
                text = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
                found[name] = (*found.get(name, ()), text)
    return found


def _sysctls(interface: str) -> dict[str, int]:
    values = {}
    for family, keys in SYSCTLS.items():
        for key in keys:
            with contextlib.suppress(OSError, ValueError):
                file = Path("/proc/sys/net", family, "conf", interface, key)
                values[f"{family}/{key}"] = int(file.read_text())
    for family, keys in ALL_COUNTS.items():
        for key in keys:
            with contextlib.suppress(OSError, ValueError):
                everywhere = int(Path("/proc/sys/net", family, "conf/all", key).read_text())
                values[f"{family}/{key}"] = max(everywhere, values.get(f"{family}/{key}", 0))
    return values


def port(wanted: dict[str, Any], own_pid: int) -> Port:
    """The chain below the hint port that is wanted."""
    consoles = [
        device
        for device in _entries(VIRTIO_BUS)
        if _text(device / "device") == f"0x{VIRTIO_CONSOLE:04x}"
    ]
    names = tuple(filter(None, (_text(each / "name") for each in _entries(VIRTIO_PORTS))))
    chain = Port(len(consoles), sum((each / "driver").exists() for each in consoles), names)
    name = wanted.get("name") or ""
    path = wanted.get("path") or (name if name.startswith("/") else "")
    if not path:
        return chain
    try:
        status = os.stat(path)
    except OSError:
        return chain
    return chain._replace(
        kind=_kind(status.st_mode),
        mode=stat.filemode(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        holders=tuple(_holders(path, own_pid)),
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _kind(mode: int) -> str:
    kinds = {stat.S_IFCHR: "character device", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "file")


def _holders(path: str, own_pid: int) -> Iterator[str]:
    real = os.path.realpath(path)
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) in (own_pid, os.getpid()):
            continue
        with contextlib.suppress(OSError):
            if any(os.readlink(each) == real for each in (folder / "fd").iterdir()):
                yield f"{_text(folder / 'comm')} (pid {folder.name})"


# -- the wire -----------------------------------------------------------------------------


def promises(links: list[dict[str, Any]]) -> tuple[Promise, ...]:
    """The frames that a burst is to send."""
    return tuple(
        Promise(
            link["interface"],
            kind,
            link["hardware_address"],
            "" if kind == "rarp" else address["address"],
        )
        for link in links
        for address in link["addresses"]
        for kind in address["announced_as"]
    )


def plan(asked: Daemon, links: list[dict[str, Any]], unasked: str) -> Plan:
    """What to send; ``unasked``: why nothing."""
    promised = promises(links)
    nothing = "" if promised else "no address is announced"
    nobody = "" if any(each.address for each in promised) else "no address is announced"
    return Plan(
        unasked,
        unasked or ("" if asked.status else asked.error) or nothing,
        unasked or nobody,
    )


def _why_not(kernel: Kernel) -> str:
    if not kernel.may_listen:
        return "needs root, or CAP_NET_RAW"
    try:
        configured()
    except TapError as error:
        return str(error)
    return ""


def wire(
    asked: Daemon,
    links: list[dict[str, Any]],
    configuration: Configuration,
    planned: Plan,
) -> Wire:
    """Listen on the announced links while the daemon sends a burst."""
    if planned.burst:
        return Wire(skipped=planned.burst)
    promised = promises(links)
    needs = configuration.span + _busiest(promised) / configuration.pace
    began = time.monotonic()
    try:
        with Tap(dict.fromkeys(each.interface for each in promised)) as tap:
            deaf = tuple(tap.deaf.items())
            promised = tuple(each for each in promised if each.interface not in tap.deaf)
            client.ask(asked.path, "burst", {"reason": "doctor"})
            seen = _listen(tap, promised, min(needs + PATIENCE, WIRE_MOST))
    except (client.ClientError, OSError) as error:
        return Wire(error=str(error))
    waited = time.monotonic() - began
    return Wire("", "", promised, tuple(seen), waited, needs > WIRE_MOST, deaf)


def _busiest(promised: tuple[Promise, ...]) -> int:
    names = [each.interface for each in promised]
    return max(names.count(name) for name in set(names))


def _listen(tap: Tap, promised: tuple[Promise, ...], seconds: float) -> list[tuple[str, Sighting]]:
    left = set(promised)
    seen = []
    for frame in tap.frames(seconds, lambda: not left):
        sighting = dissect(frame.data)
        if sighting and not sighting.vlan:
            seen.append((frame.interface, sighting))
            left.discard(
                Promise(frame.interface, sighting.kind, sighting.hardware_address, sighting.address)
            )
    return seen


def claimants(
    links: list[dict[str, Any]], interfaces: dict[str, Interface], planned: Plan
) -> Claimants:
    """Ask every announced link who else has its addresses."""
    if planned.probes:
        return Claimants(skipped=planned.probes)
    wanted = {
        link["interface"]: (
            link["hardware_address"],
            [each["address"] for each in link["addresses"] if each["announced_as"]],
        )
        for link in links
        if any(each["announced_as"] and each["address"] for each in link["addresses"])
    }
    ours = {each.hardware_address for each in interfaces.values()}
    ours |= {link["hardware_address"] for link in links}
    answers: dict[tuple[str, str, str], None] = {}
    errors = []
    try:
        with Tap(wanted) as tap:
            for _ in range(PROBES):
                for interface, (hardware_address, addresses) in wanted.items():
                    try:
                        send_probes(interface, hardware_address, addresses)
                    except (OSError, UnicodeError) as error:
                        errors.append(f"{interface}: {error}")
                for frame in tap.frames(ANSWERS_WITHIN, lambda: False):
                    said = claimant(frame.data)
                    if said and said[1] not in ours and said[0] in wanted[frame.interface][1]:
                        answers[(frame.interface, *said)] = None
    except OSError as error:
        errors.append(str(error))
    asked = tuple(
        (name, one)
        for name, (_, each) in wanted.items()
        for one in each
        if not any(error.startswith(f"{name}: ") for error in errors)
    )
    return Claimants("", asked, tuple(answers), tuple(dict.fromkeys(errors)))
