"""What the commands ``probe`` and ``drill`` need to know: links, paths, and the guests behind them.

Reads links, VLAN tables, forwarding tables and counters once, without a daemon.  Decides nothing
(hypervisor.core.learning_plan, path_probes).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from garp_agent.hypervisor.core.learning_plan import HOST as KIND_HOST
from garp_agent.hypervisor.core.learning_plan import LEFT_OUT, LearningPlan, Moment
from garp_agent.hypervisor.core.learning_rules import LearningRules
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.path_probes import (
    ProbePlan,
    ProbeTarget,
    plan_probe_paths,
    targets_behind,
)
from garp_agent.hypervisor.core.ways import LEARNING
from garp_agent.hypervisor.io.channels import STATUS_DIRECTORY
from garp_agent.hypervisor.io.libvirt_cards import LibvirtCards
from garp_agent.hypervisor.learning_lookup import read_learning_state

HOST = "(host)"


class Surroundings(NamedTuple):
    """The links of this host, and what can be probed."""

    table: LinkTable
    plan: ProbePlan
    targets: tuple[ProbeTarget, ...]

    @property
    def names(self) -> dict[int, str]:
        """Return the names of all links, by ifindex."""
        return {link.ifindex: link.name for link in self.table.links.values()}


def look_around(bonds: tuple[str, ...], status: dict[str, Any]) -> Surroundings:
    """Return what can be probed behind these bonds; behind all, if none is named.

    ``status``: of the watcher, for the names of guests; empty if it does not answer.
    """
    table, state = read_learning_state(0.0)
    cards = LibvirtCards(STATUS_DIRECTORY).read()
    named = {card.port: card.hardware_address for card in cards}
    found = state.plan(LearningRules(), Moment(0.0, named=named))
    paths = plan_probe_paths(table, bonds)
    of_libvirt = {card.port: card.guest for card in cards}
    guests = {**_hosts(found), **of_libvirt, **names_of_guests(status)}
    return Surroundings(table, paths, targets_behind(paths.paths, found.entries, guests))


def names_of_guests(status: dict[str, Any]) -> dict[str, str]:
    """Return the name of the guest behind each guest port, as the watcher knows it."""
    return {port: guest["guest"] for guest in _guests(status) for port in guest["ports"]}


def ways_of_guests(status: dict[str, Any], ports: Iterable[str] = ()) -> dict[str, str]:
    """Return for each guest port in which way its guest is announced, as the watcher knows it.

    ``ports``: others, of guests that the watcher does not know, and of the host.  They get learning
    frames, if the watcher sends these and was not told to leave some out.
    """
    learning = status.get("learning")
    is_sent = learning and not learning["left_out"].get(LEFT_OUT)
    ways = dict.fromkeys(ports, LEARNING) if is_sent else {}
    return {
        **ways,
        **{port: _way(guest) for guest in _guests(status) for port in guest["ports"]},
    }


def _guests(status: dict[str, Any]) -> list[dict[str, Any]]:
    guests = [*status.get("guests", ()), *status.get("without_channel", ())]
    return [guest for guest in guests if guest.get("ports")]


def _way(guest: dict[str, Any]) -> str:
    return str(guest.get("way") or ("agent" if guest["state"] == "answered" else "nothing"))


def _hosts(found: LearningPlan) -> dict[str, str]:
    return {entry.port: HOST for entry in found.entries if entry.kind == KIND_HOST}
