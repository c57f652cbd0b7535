"""Keeps the plan of every link: what is announced on it, or why nothing is.

Makes the plans of changed links anew, and of those that depend on them (guest.core.relations,
guest.core.shared_addresses).  Does not decide what follows from a change: the engine compares the
plans.
"""

from __future__ import annotations

from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.policy import item_skip, plan_link, whole_link_skip
from garp_agent.guest.core.relations import Relations
from garp_agent.guest.core.selectors import unmatched
from garp_agent.guest.core.shared_addresses import SharedAddresses
from garp_agent.wire.model import DumpComplete
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.config.settings import Settings
    from garp_agent.guest.core.model import KernelEvent
    from garp_agent.guest.core.policy import LinkPlan
    from garp_agent.guest.core.selectors import Unmatched
    from garp_agent.guest.core.shared_addresses import Route

    # The ifindex, and the plan before and after; None: no such link.
    Replanned = tuple[int, Union[LinkPlan, None], Union[LinkPlan, None]]

# Seconds after a change when the routes that count are looked at again: the kernel reports an
# address before it makes the route (__inet_insert_ifa), and a default route comes later still.  No
# event says that a route has changed: those of a router with a million routes cost too much.
ROUTE_LOOKS = (1.0, 4.0, 16.0, 64.0)


class Planner:
    """The plans of all links.

    ``route``: by which link the guest reaches an address (guest.core.shared_addresses).
    """

    __slots__ = (
        "_changed",
        "_changed_at",
        "_look_at_routes",
        "_relations",
        "_route",
        "_shared",
        "inventory",
        "plans",
        "settings",
    )

    def __init__(self, settings: Settings, route: Route) -> None:
        self.settings = settings
        self.inventory = Inventory()
        self.plans: dict[int, LinkPlan] = {}  # of every link, also of those that are skipped
        self._route = route
        self._relations = Relations(route)
        self._shared = SharedAddresses(route)
        self._changed: set[int] = set()  # links whose plans are to be made anew
        self._look_at_routes = inf  # when to
        self._changed_at = -inf  # the latest event, or look at the routes that changed a plan

    def apply(self, event: KernelEvent) -> None:
        """Take in one kernel event."""
        self._changed.update(self.inventory.apply(event))
        if isinstance(event, DumpComplete):
            self._changed.update(self._routed())

    def configure(self, settings: Settings) -> None:
        """Make all plans anew, under other settings."""
        self.settings = settings
        self._changed.update(self.inventory.links)

    def rebuild(self) -> None:
        """Make all plans anew, from the inventory alone: what was folded from it has gaps."""
        self._relations, self._shared = Relations(self._route), SharedAddresses(self._route)
        self._changed.update(self.inventory.links, self.plans)

    def deadline(self) -> float:
        """Return when to call :meth:`replan` at the latest."""
        return -inf if self._changed else self._look_at_routes

    def replan(self, now: float) -> list[Replanned]:
        """Make the plans of the changed links anew, in the order of their ifindexes."""
        is_event = bool(self._changed)
        if self._look_at_routes <= now:
            self._changed.update(self._routed())
            later = (self._changed_at + each for each in ROUTE_LOOKS)
            self._look_at_routes = min((each for each in later if each > now), default=inf)
        if not self._changed:
            return []
        changed, self._changed = self._changed, set()
        changed = self._relations.update(self.inventory, changed)
        changed |= self._shared.update(self.inventory, changed, self._suitable)
        replanned = [self._replan_link(ifindex) for ifindex in sorted(changed)]
        depends = self._shared.depend_on_routes() or self._relations.depend_on_routes()
        if depends and (is_event or any(before != after for _, before, after in replanned)):
            self._changed_at = now
            self._look_at_routes = min(self._look_at_routes, now + ROUTE_LOOKS[0])
        return replanned

    def announced(self) -> list[int]:
        """Return the links that have something to announce."""
        return [ifindex for ifindex, plan in self.plans.items() if plan.targets]

    def unmatched(self) -> list[Unmatched]:
        """Return each selector that selects nothing: its key, the selector, and why."""
        return unmatched(self.settings, self.inventory.links.values(), self.inventory.addresses)

    def _replan_link(self, ifindex: int) -> Replanned:
        before = self.plans.get(ifindex)
        link = self.inventory.links.get(ifindex)
        if link is None:
            self.plans.pop(ifindex, None)
            return ifindex, before, None
        after = self.plans[ifindex] = plan_link(
            link,
            self.inventory.addresses(ifindex),
            self.inventory.forwards(ifindex),
            self.settings,
            self._relations.leads_to_containers(ifindex),
            self._shared.elsewhere(ifindex),
        )
        return ifindex, before, after

    def _routed(self) -> set[int]:
        """Return the links whose plans can change because of the routes that there are now."""
        return self._shared.look_again() | self._relations.ask_routes()

    def _suitable(self, ifindex: int) -> set[bytes]:
        """Return the addresses of a link that may be announced, if no other link does."""
        link, items = self.inventory.links.get(ifindex), self.inventory.addresses(ifindex)
        to_containers = self._relations.leads_to_containers(ifindex)
        if link is None or whole_link_skip(link, items, self.settings, to_containers):
            return set()
        return {each.address for each in items if item_skip(each, link, self.settings) is None}
