"""Finds the selectors of the configuration that select nothing there is.

They are misspelt, or what they mean is not there, or is never announced.  Does not decide what is
selected (policy).
"""

from __future__ import annotations

from garp_agent.guest.core.policy import contains, link_kind, link_names, names_match, nature_skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any, Union

    from garp_agent.config.settings import Network, Settings
    from garp_agent.guest.core.model import InterfaceAddress, Link

    # The key, the selector, and why it selects nothing.
    Unmatched = tuple[str, Union[str, Network], str]

_NEVER = "matches only on links that are never announced"


def unmatched(
    settings: Settings,
    links: Collection[Link],
    addresses: Callable[[int], Iterable[InterfaceAddress]],
) -> list[Unmatched]:
    """Return each selector that matches nothing, or includes only what is never announced.

    ``addresses`` gives the addresses of a link by its ifindex.
    """

    texts = {
        link.ifindex: {
            *link_names(link),
            *(each.label for each in addresses(link.ifindex) if each.label),
        }
        for link in links
    }

    def has_name(link: Link, glob: Any) -> bool:
        return names_match(texts[link.ifindex], (glob,))

    def has_kind(link: Link, kind: Any) -> bool:
        return bool(link_kind(link) == kind)

    def has_address(link: Link, network: Any) -> bool:
        return any(contains(network, each.address) for each in addresses(link.ifindex))

    found: list[Unmatched] = []
    names, blocks = settings.interfaces, settings.addresses
    no_name = "no interface, alternative name or label here matches"
    no_link, no_address = "no link here matches", "no address here is in it"
    for key, selectors, matches, nothing in (
        ("interfaces.include", names.include, has_name, no_name),
        ("interfaces.exclude", names.exclude, has_name, no_name),
        ("interfaces.include_kinds", names.include_kinds, has_kind, no_link),
        ("interfaces.exclude_kinds", names.exclude_kinds, has_kind, no_link),
        ("addresses.include", blocks.include, has_address, no_address),
        ("addresses.exclude", blocks.exclude, has_address, no_address),
    ):
        for each in selectors:
            matched = [link for link in links if matches(link, each)]
            if not matched:
                found.append((key, each, nothing))
            elif "include" in key and all(map(nature_skip, matched)):
                found.append((key, each, _NEVER))
    return found
