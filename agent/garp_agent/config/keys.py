"""The table of keys: how the value of each is written.

Responsible for the keys' names and their order in the file.  A dotted name is a section and a key
in it; Settings has the same names.  Reads nothing.
"""

from __future__ import annotations

from typing import Any

from garp_agent.config import forms
from garp_agent.config import settings as bounds

FORMS = {
    "interval": forms.DURATION.within(bounds.INTERVAL),
    "interval_with_lease": forms.DURATION.within(bounds.INTERVAL_WITH_LEASE),
    "jitter": forms.PERCENTAGE.within(bounds.JITTER),
    "addresses_per_tick": forms.WHOLE_NUMBER.within(bounds.ADDRESSES_PER_TICK),
    "burst": forms.offsets_form(forms.DURATION.within(bounds.BURST_OFFSET)),
    "rate_limit.frames_per_second": forms.NUMBER.within(bounds.FRAMES_PER_SECOND),
    "rate_limit.depth": forms.WHOLE_NUMBER.within(bounds.RATE_LIMIT_DEPTH),
    "arp": forms.choice_form({each.value: each for each in bounds.ArpForm}),
    "mac_only": forms.SWITCH,
    "interfaces.include": forms.list_form(forms.GLOB),
    "interfaces.exclude": forms.list_form(forms.GLOB),
    "interfaces.include_kinds": forms.list_form(forms.KIND),
    "interfaces.exclude_kinds": forms.list_form(forms.KIND),
    "addresses.include": forms.list_form(forms.BLOCK),
    "addresses.exclude": forms.list_form(forms.BLOCK),
    "addresses.ipv4": forms.SWITCH,
    "addresses.ipv6": forms.SWITCH,
    "addresses.deprecated": forms.SWITCH,
    "conflict.policy": forms.choice_form({each.value: each for each in bounds.ConflictPolicy}),
    "conflict.hold_off": forms.DURATION.within(bounds.HOLD_OFF),
    "conflict.ignore": forms.list_form(forms.HARDWARE_ADDRESS),
    "reconcile_interval": forms.DURATION.within(bounds.RECONCILE_INTERVAL),
    "hint_port": forms.HINT_PORT,
    "control_socket": forms.CONTROL_SOCKET,
}

# As the file nests them: {"interval": Form, ..., "rate_limit": {"frames_per_second": Form, ...}}.
TREE: dict[str, Any] = {}
for _name, _form in FORMS.items():
    _section, _, _key = _name.rpartition(".")
    (TREE.setdefault(_section, {}) if _section else TREE)[_key] = _form
