"""Finds the selectors of the configuration that match nothing: a misspelt name, a missing link.

Does not decide what is selected (policy).
"""

from __future__ import annotations

from garp_agent.guest.core.policy import link_kind, link_names, names_match

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from garp_agent.config.settings import InterfaceSelection
    from garp_agent.guest.core.model import InterfaceAddress, Link


def unmatched(
    selection: InterfaceSelection,
    links: Collection[Link],
    addresses: Callable[[int], Iterable[InterfaceAddress]],
) -> list[tuple[str, str]]:
    """Return the key and the text of each selector that matches nothing there is.

    ``addresses`` gives the addresses of a link by its ifindex.
    """
    here = {name for link in links for name in link_names(link)}
    here |= {item.label for link in links for item in addresses(link.ifindex) if item.label}
    kinds = {link_kind(link) for link in links}
    return [
        *(("interfaces.include", each) for each in selection.include if not _is_any(here, each)),
        *(("interfaces.exclude", each) for each in selection.exclude if not _is_any(here, each)),
        *(
            ("interfaces.include_kinds", each)
            for each in selection.include_kinds
            if each not in kinds
        ),
        *(
            ("interfaces.exclude_kinds", each)
            for each in selection.exclude_kinds
            if each not in kinds
        ),
    ]


def _is_any(here: Iterable[str], glob: str) -> bool:
    return names_match(here, (glob,))
