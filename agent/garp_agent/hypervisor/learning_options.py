"""The options of learning frames, as the command line gives them, to the rules that they mean."""

from __future__ import annotations

from fnmatch import fnmatchcase

from garp_agent.hypervisor.core.learning_rules import LearningRules, parse_mac_prefix, parse_vlans


def learning_rules(
    never: tuple[str, ...], ports: tuple[str, ...], vlans: tuple[str, ...]
) -> LearningRules:
    """Return what the values of --learn-never, --learn-port and --learn-vlans mean.

    Raises ValueError if one of them is wrong.
    """
    return LearningRules(
        tuple(map(parse_mac_prefix, never)),
        lambda name: not ports or any(fnmatchcase(name, each) for each in ports),
        frozenset().union(*map(parse_vlans, vlans)),
    )
