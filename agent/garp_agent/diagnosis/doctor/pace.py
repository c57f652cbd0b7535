"""When doctor may send a question: the agent and doctor together keep to the agent's limit.

The agent sends at most so many frames in any second of a NIC (14 by default).  Doctor counts its
own questions and the agent's frames that it sees, and leaves room for the agent's next refresh.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from garp_agent.diagnosis.doctor.facts import ConfigurationFacts, PromisedFrame
from garp_agent.guest.core.rate_limit import SECOND


class QuestionPace:
    """The frames of each NIC in the last second.

    ``promised``: what one burst of the agent sends; ``questions``: on which links doctor asks, a
    link for each question.
    """

    def __init__(
        self,
        promised: Iterable[PromisedFrame],
        questions: Iterable[str],
        configuration: ConfigurationFacts,
        nics: dict[str, int],
    ) -> None:
        self._most = configuration.most_in_a_second
        self._nics = nics
        self._recent: dict[str | int, deque[float]] = {}
        self._refreshes: dict[str | int, int] = {}
        self._all: dict[str | int, int] = {}  # of a burst, of the questions and of a refresh
        by_link: dict[str, list[str]] = {}
        for each in promised:
            by_link.setdefault(each.interface, []).append(each.address)
        for name, addresses in by_link.items():
            forms = max(addresses.count(one) for one in addresses)
            # A refresh can begin with a probe for each address, and announces half a second later.
            ipv6 = {address for address in addresses if ":" in address}
            families = len(ipv6), len(set(addresses)) - len(ipv6)
            tick = sum(min(each, configuration.addresses_per_tick) for each in families)
            refresh = (forms + 1) * tick
            nic = self._nic(name)
            self._refreshes[nic] = self._refreshes.get(nic, 0) + refresh
            frames = refresh + configuration.rounds * len(addresses)
            self._all[nic] = self._all.get(nic, 0) + frames
        for name in questions:
            self._all[self._nic(name)] = self._all.get(self._nic(name), 0) + 1

    def needs_rest(self, links: list[dict[str, Any]]) -> bool:
        """Return whether a burst and the questions are more than one second may have.

        ``links``: their status before the burst; an earlier burst counts, too.
        """
        bursts = [each["last_burst"] for each in links if each.get("last_burst")]
        is_recent = any(each["seconds_ago"] < 2 * SECOND or not each["over"] for each in bursts)
        return is_recent or any(frames > self._most for frames in self._all.values())

    def count(self, interface: str, now: float) -> None:
        """Count a frame of the agent or of doctor; ``now`` in seconds, monotonic."""
        self._recent.setdefault(self._nic(interface), deque()).append(now)

    def ready_at(self, interface: str, now: float) -> float:
        """Return when a question may leave by a link, not earlier than ``now``."""
        nic = self._nic(interface)
        recent = self._recent.setdefault(nic, deque())
        while recent and recent[0] <= now - SECOND:
            recent.popleft()
        # Where the refreshes of many links leave no room, doctor takes a quarter.
        room = max(self._most - self._refreshes.get(nic, 0), self._most // 4, 1)
        return now if len(recent) < room else recent[len(recent) - room] + SECOND

    def _nic(self, interface: str) -> str | int:
        return self._nics.get(interface, interface)
