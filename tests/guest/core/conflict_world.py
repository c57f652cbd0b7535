"""A guest with rivals, for the tests of conflicts."""

from __future__ import annotations

from typing import Any

from garp_agent.config.settings import Conflict, ConflictPolicy, Settings
from garp_agent.guest.core.model import PROBE_KINDS, Cause, ClaimSeen, Kind
from tests.world import Agent, Frame, address, dump, link

MINE = address("192.0.2.10/24")
SECOND = address("192.0.2.11/24")
MINE6 = address("2001:db8::10/64")
ETH0, ETH1 = link(2, "eth0"), link(3, "eth1")
RIVAL, RIVAL2 = b"\2\0\0\0\0\x66", b"\2\0\0\0\0\x67"
YIELD, WARN, DEFEND = ConflictPolicy.YIELD, ConflictPolicy.WARN, ConflictPolicy.DEFEND
PROBES = [Kind.ARP_PROBE] * 3
REQUESTS = [Kind.ARP_REQUEST] * 3
CLAIMS = (Kind.ARP_REQUEST, Kind.UNSOLICITED_NA)


def guest(policy: ConflictPolicy = YIELD, **more: Any) -> Agent:
    """An agent at time 0 whose start burst is over, and whose next refresh is far away."""
    conflict = Conflict(policy, **more)
    settings = Settings(interval=5000.0, jitter=0.0, mac_only=False, conflict=conflict)
    agent = Agent(settings, now=-3.0)
    agent.tell(*dump(ETH0, ETH1, MINE, SECOND, MINE6))
    agent.until(0.0)
    agent.notices()
    return agent


def claim(
    agent: Agent,
    now: float,
    claimed: bytes = MINE.address,
    rival: bytes = RIVAL,
    answer: bool = False,
) -> list[Frame]:
    to = ETH0.hardware_address if answer else b""
    return agent.until(now) + agent.tell(ClaimSeen("eth0", claimed, rival, to))


def answered_by(agent: Agent, *rivals: bytes, everything: bool = False) -> None:
    """Let stations answer the probes for the guest's addresses, or for all, from now on."""

    def answers(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        if sent.kind not in PROBE_KINDS:
            return []
        if sent.cause is Cause.PROXY_TEST and not everything:
            return []
        name = {ETH0.ifindex: ETH0.name, ETH1.ifindex: ETH1.name}[sent.ifindex]
        return [
            ClaimSeen(name, sent.address, rival, sent.hardware_address)
            for rival in rivals
            if sent.asked in (b"", rival)
        ]

    agent.after_frame = answers


def kinds(frames: list[Frame], of: bytes = MINE.address) -> list[Kind]:
    return [frame.announcement.kind for frame in frames if frame.announcement.address == of]


def moments(frames: list[Frame], of: bytes = MINE.address) -> list[float]:
    return [round(frame.at, 6) for frame in frames if frame.announcement.address == of]


def is_withheld(agent: Agent, item: Any = MINE) -> bool:
    return agent.engine.conflicts.is_withheld(item.ifindex, item.address)


def rivals(agent: Agent) -> set[bytes]:
    known = agent.engine.conflicts.rivals.values()
    return {rival.hardware_address for each in known for rival in each.values()} - {b""}


def logged_rivals(agent: Agent) -> list[object]:
    notices = [each for each in agent.engine.notices.take() if each.event == "address-conflict"]
    return [dict(each.fields)["claimed_by"] for each in notices]


def crowd(count: int) -> list[Any]:
    return [address(f"10.0.{n >> 8}.{n & 255}/16") for n in range(1, count + 1)]
