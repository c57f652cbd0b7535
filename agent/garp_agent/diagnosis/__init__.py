"""``garp-agent doctor`` and ``garp-agent watch``, which look at the agent from outside.

The only folder that imports scapy and netifaces, and only inside functions: they check frames and
addresses independently of the agent's own code.  The daemons never load it.
"""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {"scapy": "python3-scapy", "netifaces": "python3-netifaces"}  # module, Debian package


def missing() -> str:
    """Return which needed packages are not installed, as a line for the operator; "" if none."""
    names = [name for name in PACKAGES if find_spec(name) is None]
    if not names:
        return ""
    packages = " ".join(PACKAGES[name] for name in names)
    return f"needs the Python packages {' and '.join(names)}: apt-get install {packages}"
