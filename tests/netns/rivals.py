"""Stations beside the guest that claim its addresses, answer its probes or repeat its frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench.lab import GUEST_MAC, PEER_MAC
from tests.netns.agent import Agent, Site, advertisement, gratuitous, until

RIVAL_MAC = "02:00:5e:00:53:66"
OTHER_RIVAL = "02:00:5e:00:53:67"
NO_REFRESH = "interval: 270s\ninterval_with_lease: 270s\njitter: 0%\nmac_only: false\n"
FREQUENT = "interval: 200ms\nrate_limit: {frames_per_second: 100, depth: 50}\n"


@contextmanager
def station(
    site: Site, react: Callable[[Packet], list[Packet]], delay: float = 0.0
) -> Iterator[None]:
    """Let a station at the peer's link send what `react` returns for each frame of the guest.

    ``delay``: seconds that it takes for that.
    """
    sock = site.lab.packet_socket("peer", "eth0")
    sock.settimeout(0.05)
    stop = threading.Event()

    def run() -> None:
        coming: list[tuple[float, bytes]] = []  # when to send which frame
        while not stop.is_set():
            frame = b""
            with suppress(TimeoutError):
                frame = sock.recv(2048)
            if frame[6:12] == bytes.fromhex(GUEST_MAC.replace(":", "")):
                at = time.monotonic() + delay
                coming += [(at, bytes(answer)) for answer in react(Ether(frame))]
            while coming and coming[0][0] <= time.monotonic():
                sock.send(coming.pop(0)[1])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sock.close()


def claim(site: Site, *frames: Packet) -> None:
    for frame in frames:
        site.wire.socket.send(bytes(frame))


def claim_of(address: str, mac: str = RIVAL_MAC, op: int = 1) -> Packet:
    if ":" in address:
        return advertisement(mac, address, address)
    return gratuitous(mac, address, op)


def kinds(packets: Sequence[Packet]) -> list[str]:
    """Return "probe" or "claim" for each frame."""
    return ["probe" if is_probe(packet) else "claim" for packet in packets]


def is_probe(packet: Packet) -> bool:
    return ICMPv6ND_NS in packet or (ARP in packet and packet[ARP].psrc == "0.0.0.0")


def asked(packet: Packet) -> str:
    """Return the address that a probe asks for; "" for other frames."""
    if ICMPv6ND_NS in packet:
        return str(packet[ICMPv6ND_NS].tgt)
    return str(packet[ARP].pdst) if is_probe(packet) else ""


def answer(probe: Packet, mac: str = RIVAL_MAC) -> Packet:
    """Return the frame with which a station answers a probe."""
    address = asked(probe)
    if ":" in address:
        frame = advertisement(mac, address, address)
        if probe[IPv6].src != "::":
            frame.dst, frame[IPv6].dst, frame[ICMPv6ND_NA].S = GUEST_MAC, probe[IPv6].src, 1
        return frame
    arp = ARP(op=2, hwsrc=mac, psrc=address, hwdst=GUEST_MAC, pdst="0.0.0.0")
    return Ether(src=mac, dst=GUEST_MAC) / arp


def has(address: str, mac: str = RIVAL_MAC) -> Callable[[Packet], list[Packet]]:
    """Return how a station reacts that has this address."""
    return lambda packet: [answer(packet, mac)] if asked(packet) == address else []


def claims_of(site: Site, address: str) -> list[Packet]:
    """Return the frames that claimed an address since the capture was cleared."""
    return [packet for packet in site.wire.announcements(address) if not is_probe(packet)]


def started(site: Site, address: str, config: str = NO_REFRESH) -> Agent:
    agent = (site.start if config == FREQUENT else site.start_without_refresh)(config=config)
    until(lambda: agent.claims(address), "its first probes remain without an answer")
    return agent


@contextmanager
def owner(site: Site, address: str) -> Iterator[None]:
    """Give the peer the guest's address: it answers probes for it."""
    length = 64 if ":" in address else 24
    site.lab.ip("peer", f"address add {address}/{length} dev eth0{' nodad' * (length == 64)}")
    yield


def until_it_yields(agent: Agent, address: str, link: str = "eth0", mac: str = PEER_MAC) -> None:
    def withheld() -> Any:
        conflict = agent.addresses(link).get(address, {}).get("conflict")
        return conflict and conflict["withheld"] and conflict["claimed_by"] == mac

    until(withheld, "the agent yields")


def burst_is_over(agent: Agent, name: str = "eth0") -> bool:
    link = agent.link(name)
    return bool(link and link["last_burst"]["over"])


def assert_stays_silent(site: Site, agent: Agent, address: str) -> None:
    """Find that a burst does not claim the address, and that no refresh does."""
    site.wire.clear()
    before = agent.sent()
    agent.burst()
    agent.burst()
    until(lambda: agent.sent() > before and burst_is_over(agent), "the bursts are over")
    assert claims_of(site, address) == []
