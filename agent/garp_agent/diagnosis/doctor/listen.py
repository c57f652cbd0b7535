"""Listens while the agent sends a burst, and asks the links for other claimants.

The only part of ``doctor`` that causes frames; does not judge (the checks do).
"""

from __future__ import annotations

import time
from typing import Any

from garp_agent.diagnosis.capture import (
    Capture,
    claimant,
    send_probe,
)
from garp_agent.diagnosis.doctor.facts import (
    AgentAnswer,
    ClaimantFacts,
    ConfigurationFacts,
    Facts,
    Interface,
    KernelFacts,
    PromisedFrame,
    SendPlan,
    WireFacts,
)
from garp_agent.diagnosis.doctor.pace import QuestionPace
from garp_agent.diagnosis.sighting import Sighting, dissect
from garp_agent.guest.core.rate_limit import SECOND
from garp_agent.runtime import client

PATIENCE = 2.0  # seconds beyond what a burst takes by itself
WIRE_MOST = 20.0  # seconds for which a burst is captured
ANSWERS_WITHIN = 0.5  # seconds after each probe; on a segment, an answer takes some ms
PROBES = 2
ASKING_MOST = 30.0  # seconds for which probes are sent


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


def probe_claimants(facts: Facts, planned: SendPlan) -> ClaimantFacts:
    """Send probes for the announced addresses, and collect the answers of other stations.

    Together with the agent's frames, no NIC sends more in a second than the agent alone may.
    """
    if planned.probes:
        return ClaimantFacts(skipped=planned.probes)
    asking = _Asking(facts.links, facts.interfaces)
    questions = [interface for interface, _ in asking.wanted for _ in range(PROBES)]
    pace = QuestionPace(promises(facts.links), questions, facts.configuration, dict(facts.nics))
    if not planned.burst and pace.needs_rest(facts.links):
        _rest_after_burst(facts.agent.path)
    try:
        with Capture(dict.fromkeys(interface for interface, _ in asking.wanted)) as capture:
            end = time.monotonic() + ASKING_MOST
            for _ in range(PROBES):
                asking.ask_all(capture, pace, end)
    except OSError as error:
        asking.errors[""] = str(error)
    return asking.facts()


def _rest_after_burst(path: str) -> None:
    """Wait until the agent's bursts are over, and a second more: then each NIC has room."""
    end = time.monotonic() + WIRE_MOST
    while time.monotonic() < end:
        try:
            links: Any = client.ask(path, "status")["links"]
        except client.ClientError:
            break
        if all(each["last_burst"]["over"] for each in links if each.get("last_burst")):
            break
        time.sleep(0.1)
    time.sleep(SECOND)


class _Asking:
    """Which addresses are asked for, and what came of it."""

    def __init__(self, links: list[dict[str, Any]], interfaces: dict[str, Interface]) -> None:
        self.macs = {link["interface"]: link["hardware_address"] for link in links}
        # interface, address
        self.wanted = [
            (link["interface"], each["address"])
            for link in links
            for each in link["addresses"]
            if each["announced_as"] and each["address"]
        ]
        self.errors: dict[str, str] = {}  # by interface
        self._ours = {each.hardware_address for each in interfaces.values()} | {*self.macs.values()}
        self._asked: dict[tuple[str, str], None] = {}
        self._answers: dict[tuple[str, str, str], None] = {}
        # Frames of doctor that it will see itself: the agent's probes are the same bytes.
        self._unseen: dict[bytes, int] = {}

    def ask_all(self, capture: Capture, pace: QuestionPace, end: float) -> None:
        """Send one probe for each address, as fast as the pace allows, until ``end``."""
        left = self.wanted
        while left and time.monotonic() < end:
            waiting = []
            ready = end
            for interface, address in left:
                now = time.monotonic()
                at = pace.ready_at(interface, now)
                if at > now:
                    waiting.append((interface, address))
                    ready = min(ready, at)
                else:
                    self._ask(interface, address, pace)
            left = waiting
            if left:
                self._listen(capture, pace, max(0.0, ready - time.monotonic()))
        self._listen(capture, pace, ANSWERS_WITHIN)

    def _ask(self, interface: str, address: str, pace: QuestionPace) -> None:
        if interface in self.errors:
            return
        try:
            frame = send_probe(interface, self.macs[interface], address)
        except (OSError, UnicodeError) as error:
            self.errors[interface] = str(error)
        else:
            self._asked[(interface, address)] = None
            self._unseen[frame] = self._unseen.get(frame, 0) + 1
            pace.count(interface, time.monotonic())

    def _listen(self, capture: Capture, pace: QuestionPace, seconds: float) -> None:
        for frame in capture.frames(seconds, lambda: False):
            sighting, said = dissect(frame.data), claimant(frame.data)
            if sighting and sighting.source == self.macs[frame.interface]:
                if self._unseen.get(frame.data):
                    self._unseen[frame.data] -= 1
                else:
                    pace.count(frame.interface, time.monotonic())
            elif said and said[1] not in self._ours and (frame.interface, said[0]) in self._asked:
                self._answers[(frame.interface, *said)] = None

    def facts(self) -> ClaimantFacts:
        """Return the result."""
        errors = [f"{name}: {text}" if name else text for name, text in self.errors.items()]
        asked = tuple(each for each in self._asked if each[0] not in self.errors)
        wanted = [each for each in self.wanted if each[0] not in self.errors]
        if len(asked) < len(wanted) and "" not in self.errors:
            unasked = len(wanted) - len(asked)
            errors.append(f"{unasked} addresses were not asked for within {ASKING_MOST:.0f} s")
        return ClaimantFacts("", asked, tuple(self._answers), tuple(errors))
