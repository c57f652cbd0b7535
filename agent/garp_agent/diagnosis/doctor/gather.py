"""Gathers facts for ``doctor`` from the agent, netifaces, proc(5) and sysfs.

Sends nothing (``listen`` does) and does not judge (the checks do).
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import stat
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from garp_agent.config.errors import ConfigError
from garp_agent.config.in_force import configuration_files
from garp_agent.config.settings import Settings
from garp_agent.diagnosis.doctor.arp_rules import read_rules
from garp_agent.diagnosis.doctor.facts import (
    AgentAnswer,
    ConfigurationFacts,
    Facts,
    Interface,
    KernelFacts,
    PortFacts,
    ProcessFacts,
)
from garp_agent.guest import once, status
from garp_agent.guest.core.model import IFA_F_DADFAILED, IFA_F_TENTATIVE
from garp_agent.runtime import client

CHECKS_END = 1.5  # seconds to wait for the agent's first checks, which take 0.5 s
NO_NETIFACES = (
    "needs the Python package netifaces: apt-get install --no-install-recommends python3-netifaces"
)
SAME = 3  # attempts to see the daemon and the kernel at one moment
SYSCTLS = {
    "ipv4": (
        "arp_notify",
        "arp_ignore",
        "arp_announce",
        "arp_filter",
        "rp_filter",
        "drop_gratuitous_arp",
        "forwarding",
    ),
    "ipv6": ("ndisc_notify", "disable_ipv6", "drop_unsolicited_na", "forwarding"),
}
# For these the kernel uses the larger of the interface's value and that of `all`
# (<linux/inetdevice.h>; net/ipv6/ndisc.c).  For the others only the interface's own counts.
ALL_COUNTS = {
    "ipv4": (
        "arp_notify",
        "arp_ignore",
        "arp_announce",
        "arp_filter",
        "rp_filter",
        "drop_gratuitous_arp",
    ),
    "ipv6": ("ndisc_notify",),
}
VIRTIO_BUS = Path("/sys/bus/virtio/devices")
VIRTIO_CONSOLE = 3  # virtio 1.2, section 5
VIRTIO_PORTS = Path("/sys/class/virtio-ports")


def local_facts(path: str | None, control_socket: str | None) -> Facts:
    """Return all facts that need no frame on a link.  Sends nothing."""
    configuration, settings = read_configuration(path)
    control = control_socket or settings.control_socket
    for _ in range(SAME):  # an address may come or go between the two looks
        answer = ask_agent(control)
        links = answer.status["links"] if answer.status else status.links(once.plans(settings))
        interfaces = look_at_interfaces()
        if why_not_seen() or _agree(links, interfaces):
            break
    wanted = answer.status["hint_port"] if answer.status else {"name": settings.hint_port}
    pid = answer.status["pid"] if answer.status else 0
    return Facts(
        answer,
        answer,
        links,
        process(pid) if pid else None,
        configuration,
        look_at_kernel(),
        interfaces,
        port(wanted, pid),
        not_seen=why_not_seen(),
        arp_rules=read_rules(),
        below=once.below(settings),
        nics=once.nics(settings),
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


def read_configuration(path: str | None) -> tuple[ConfigurationFacts, Settings]:
    """Return the facts and settings of the file in force; the defaults where it has errors."""
    from garp_agent.config import read as config  # doctor works without yaml, too

    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    settings = Settings()
    try:
        files = configuration_files(path)
        settings = config.read_files(files)
    except ConfigError as error:
        problems = tuple(str(error).splitlines())
    return (
        ConfigurationFacts(
            " ".join(files),
            problems,
            settings.rate_limit.frames_per_second,
            max(settings.burst) - min(settings.burst),
            len(settings.burst),
            settings.addresses_per_tick,
            int(settings.rate_limit.in_a_second),
            settings.conflict.ignore,
        ),
        settings,
    )


def ask_agent(path: str) -> AgentAnswer:
    """Ask the running agent for its status.  ``path``: its control socket, "" for none.

    Wait for the first checks to end: until then the agent sends other frames than those it will
    send for good.
    """
    if not path:
        return AgentAnswer("", error="the configuration has no control socket")
    end = time.monotonic() + CHECKS_END
    while True:
        began = time.monotonic()
        try:
            answer: dict[str, Any] = client.ask(path, "status")
        except client.ClientError as error:
            took = time.monotonic() - began
            return AgentAnswer(path, error=str(error), asked_at=began, took=took)
        if not _is_checking(answer) or time.monotonic() > end:
            return AgentAnswer(path, answer, asked_at=began, took=time.monotonic() - began)
        time.sleep(0.1)


def _is_checking(status: dict[str, Any]) -> bool:
    """Return whether an address without a rival is announced by probes."""
    addresses = [each for link in status["links"] for each in link["addresses"]]
    forms = [each["announced_as"][-1:] for each in addresses if not each.get("conflict")]
    return ["arp-probe"] in forms or ["dad-probe"] in forms


def process(pid: int) -> ProcessFacts | None:
    """Return a process, or None where it is hidden (another PID namespace, hidepid)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return ProcessFacts(
        fields["State"].split()[0],
        int(fields["Uid"].split()[1]),
        tuple(map(int, [fields["Gid"].split()[1], *fields["Groups"].split()])),
        int(fields["CapEff"], 16),
    )


# -- the machine --------------------------------------------------------------------------


def look_at_kernel() -> KernelFacts:
    """Return the kernel's release, and whether it gives packet sockets."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return KernelFacts(platform.release(), may_listen=False)
    except OSError as error:
        return KernelFacts(platform.release(), str(error.strerror), may_listen=False)
    return KernelFacts(platform.release())


def why_not_seen() -> str:
    """Return why the addresses of interfaces are not seen; "" if they are."""
    return "" if find_spec("netifaces") else NO_NETIFACES


def look_at_interfaces() -> dict[str, Interface]:
    """Return every interface as netifaces sees it; without netifaces, as sysfs does.

    The label ``eth0:1`` belongs to ``eth0``.
    """
    if why_not_seen():
        return {
            name: Interface(_text(Path("/sys/class/net", name, "address")), {}, _sysctls(name))
            for _, name in socket.if_nameindex()
        }
    import netifaces

    # netifaces replaces bytes in names that are not UTF-8.
    there = {os.fsencode(name).decode(errors="replace"): name for _, name in socket.if_nameindex()}
    found: dict[str, Interface] = {}
    for label in netifaces.interfaces():
        name = there.get(label) or there.get(label.partition(":")[0], label)
        families: Any = netifaces.ifaddresses(label)
        known = found.setdefault(name, Interface("", {}, {}))
        for family in (netifaces.AF_INET, netifaces.AF_INET6):
            for entry in families.get(family, ()):
                known.addresses[entry["addr"].partition("%")[0]] = entry.get("mask", "")
        # netifaces2 has MAC addresses under AF_PACKET, the original netifaces under AF_LINK.
        for family in (netifaces.AF_PACKET, netifaces.AF_LINK):
            for entry in families.get(family, ()):
                found[name] = known._replace(hardware_address=entry["addr"])
    tentative = _tentative()
    return {
        name: each._replace(sysctls=_sysctls(name), tentative=tentative.get(name, ()))
        for name, each in found.items()
    }


def _tentative() -> dict[str, tuple[str, ...]]:
    """Return the tentative IPv6 addresses by interface (/proc/net/if_inet6, proc(5))."""
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


def port(wanted: dict[str, Any], own_pid: int) -> PortFacts:
    """Return the chain below the hint port.

    ``wanted``: its name and path; ``own_pid``: the agent's process.
    """
    consoles = [
        device
        for device in _entries(VIRTIO_BUS)
        if _text(device / "device") == f"0x{VIRTIO_CONSOLE:04x}"
    ]
    names = tuple(filter(None, (_text(each / "name") for each in _entries(VIRTIO_PORTS))))
    chain = PortFacts(len(consoles), sum((each / "driver").exists() for each in consoles), names)
    name = wanted.get("name") or ""
    path = wanted.get("path") or (name if name.startswith("/") else "")
    if not path:
        return chain
    try:
        found = os.stat(path)
    except OSError:
        return chain
    return chain._replace(
        kind=_kind(found.st_mode),
        mode=stat.filemode(found.st_mode),
        owner=(found.st_uid, found.st_gid),
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
