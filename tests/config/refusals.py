"""What the tests of the configuration share: a text, and the lines that an operator reads."""

from __future__ import annotations

import pytest

from garp_agent.config import read
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings

EVERY_KEY = """\
interval: 1.5s
interval_with_lease: 2m
jitter: 12.5%
addresses_per_tick: 7
burst: [50ms, 1s]
rate_limit: {frames_per_second: 2.5, depth: 20}
arp: both
mac_only: true
interfaces:
  include: [eth*, "*.100", 'en[ps]?']
  exclude: [docker0]
  include_kinds: [vlan, physical]
  exclude_kinds:
  - veth
addresses: {include: [10.0.0.0/8, "2001:db8::/32"], exclude: [10.0.0.5/32], ipv4: true, ipv6: false,
  deprecated: true}
conflict: {policy: defend, hold_off: 10s}
reconcile_interval: 1h
hint_port: /dev/hvc1
control_socket: none
"""


def settings_of(text: str) -> Settings:
    return read.read_text(text.encode(), "f.yaml")


def refusals(text: str | bytes) -> list[str]:
    """Return the lines about a text that is refused, in the file f.yaml."""
    with pytest.raises(ConfigError) as caught:
        read.read_text(text if isinstance(text, bytes) else text.encode(), "f.yaml")
    return str(caught.value).split("\n")
