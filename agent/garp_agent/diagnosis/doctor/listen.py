"""Listens while the agent sends a burst, and asks the links for other claimants.

The only part of ``doctor`` that causes frames; does not judge (the checks do).
"""

from __future__ import annotations

import time
from typing import Any

from garp_agent.diagnosis.capture import (
    Capture,
    claimant,
    send_probes,
)
from garp_agent.diagnosis.doctor.facts import (
    AgentAnswer,
    ClaimantFacts,
    ConfigurationFacts,
    Interface,
    KernelFacts,
    PromisedFrame,
    SendPlan,
    WireFacts,
)
from garp_agent.diagnosis.sighting import Sighting, dissect
from garp_agent.runtime import client

PATIENCE = 2.0  # seconds beyond what a burst takes by itself
WIRE_MOST = 20.0  # seconds for which a burst is captured
ANSWERS_WITHIN = 0.5  # seconds after each probe; on a segment, an answer takes some ms
PROBES = 2


def promises(links: list[dict[str, Any]]) -> tuple[PromisedFrame, ...]:
    """Return the frames that a burst should send."""
    return tuple(
        PromisedFrame(
            link["interface"],
            kind,
            link["hardware_address"],
            "" if kind == "rarp" else address["address"],
        )
        for link in links
        for address in link["addresses"]
        for kind in address["announced_as"]
    )


def plan(answer: AgentAnswer, links: list[dict[str, Any]], unasked: str) -> SendPlan:
    """Return what to send.  ``unasked``: why nothing may be sent, "" if it may."""
    promised = promises(links)
    no_frame = "" if promised else "no address is announced"
    no_probe = "" if any(each.address for each in promised) else "no address is announced"
    return SendPlan(
        unasked,
        unasked or ("" if answer.status else answer.error) or no_frame,
        unasked or no_probe,
    )


def why_not(kernel: KernelFacts) -> str:
    """Return why this process cannot listen and send, "" if it can."""
    return "" if kernel.may_listen else "needs root, or CAP_NET_RAW"


def listen_after_burst(
    answer: AgentAnswer,
    links: list[dict[str, Any]],
    configuration: ConfigurationFacts,
    planned: SendPlan,
) -> WireFacts:
    """Listen on the announced links while the agent sends a burst."""
    if planned.burst:
        return WireFacts(skipped=planned.burst)
    promised = promises(links)
    needs = configuration.span + _busiest(promised) / configuration.pace
    began = time.monotonic()
    try:
        with Capture(dict.fromkeys(each.interface for each in promised)) as capture:
            unheard = tuple(capture.unheard.items())
            promised = tuple(each for each in promised if each.interface not in capture.unheard)
            client.ask(answer.path, "burst", {"reason": "doctor"})
            seen = _collect(capture, promised, min(needs + PATIENCE, WIRE_MOST))
    except (client.ClientError, OSError) as error:
        return WireFacts(error=str(error))
    waited = time.monotonic() - began
    return WireFacts("", "", promised, tuple(seen), waited, needs > WIRE_MOST, unheard)


def _busiest(promised: tuple[PromisedFrame, ...]) -> int:
    names = [each.interface for each in promised]
    return max(names.count(name) for name in set(names))


def _collect(
    capture: Capture, promised: tuple[PromisedFrame, ...], seconds: float
) -> list[tuple[str, Sighting]]:
    left = set(promised)
    seen = []
    for frame in capture.frames(seconds, lambda: not left):
        sighting = dissect(frame.data)
        if sighting and not sighting.vlan:
            seen.append((frame.interface, sighting))
            left.discard(
                PromisedFrame(
                    frame.interface, sighting.kind, sighting.hardware_address, sighting.address
                )
            )
    return seen


def probe_claimants(
    links: list[dict[str, Any]], interfaces: dict[str, Interface], planned: SendPlan
) -> ClaimantFacts:
    """Send probes for the announced addresses, and collect the answers of other stations."""
    if planned.probes:
        return ClaimantFacts(skipped=planned.probes)
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
        with Capture(wanted) as capture:
            for _ in range(PROBES):
                for interface, (hardware_address, addresses) in wanted.items():
                    try:
                        send_probes(interface, hardware_address, addresses)
                    except (OSError, UnicodeError) as error:
                        errors.append(f"{interface}: {error}")
                for frame in capture.frames(ANSWERS_WITHIN, lambda: False):
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
    return ClaimantFacts("", asked, tuple(answers), tuple(dict.fromkeys(errors)))
