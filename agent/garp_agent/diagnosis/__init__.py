"""Seeing and believing: ``doctor`` and ``watch``, which look at the agent from outside.

The only rooms that import scapy and netifaces, and only when they are called: what they
say of frames and addresses is not our own code's opinion of itself.  Never loaded by the
daemon.
"""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {"scapy": "python3-scapy", "netifaces": "python3-netifaces"}  # module, Debian package


def missing() -> str:
    """What these rooms need and is not installed, as a line for the operator; "" if nothing."""
    names = [name for name in PACKAGES if find_spec(name) is None]
    if not names:
        return ""
    packages = " ".join(PACKAGES[name] for name in names)
    return f"needs the Python packages {' and '.join(names)}: apt-get install {packages}"
