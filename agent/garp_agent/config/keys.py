"""The table of keys: the name of each, how it is written, and which setting it sets.

Responsible for the keys' names and their order in the file.  Reads nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from garp_agent.config import forms
from garp_agent.config import settings as bounds
from garp_agent.config.settings import Settings


class Key(NamedTuple):
    """One key of the file."""

    name: str  # dotted, as in Settings
    form: forms.Form

    def get(self, settings: Settings) -> Any:
        """Return what the settings say for this key."""
        value: Any = settings
        for name in self.name.split("."):
            value = getattr(value, name)
        return value

    def put(self, settings: Settings, value: Any) -> Settings:
        """Return the settings with another value for this key."""
        outer, _, field = self.name.rpartition(".")
        if outer:
            field, value = outer, getattr(settings, outer)._replace(**{field: value})
        return settings._replace(**{field: value})


KEYS = (
    Key("interval", forms.duration_form(bounds.INTERVAL)),
    Key("interval_with_lease", forms.duration_form(bounds.INTERVAL_WITH_LEASE)),
    Key("jitter", forms.percentage_form(bounds.JITTER)),
    Key("addresses_per_tick", forms.number_form(bounds.ADDRESSES_PER_TICK, is_whole=True)),
    Key("burst", forms.offsets_form(bounds.BURST_OFFSET)),
    Key("rate_limit.frames_per_second", forms.number_form(bounds.FRAMES_PER_SECOND)),
    Key("rate_limit.depth", forms.number_form(bounds.RATE_LIMIT_DEPTH, is_whole=True)),
    Key("arp", forms.choice_form(bounds.ArpForm)),
    Key("mac_only", forms.SWITCH),
    Key("interfaces.include", forms.list_form(forms.GLOB)),
    Key("interfaces.exclude", forms.list_form(forms.GLOB)),
    Key("interfaces.include_kinds", forms.list_form(forms.KIND)),
    Key("interfaces.exclude_kinds", forms.list_form(forms.KIND)),
    Key("addresses.include", forms.list_form(forms.BLOCK)),
    Key("addresses.exclude", forms.list_form(forms.BLOCK)),
    Key("addresses.ipv4", forms.SWITCH),
    Key("addresses.ipv6", forms.SWITCH),
    Key("addresses.deprecated", forms.SWITCH),
    Key("conflict.policy", forms.choice_form(bounds.ConflictPolicy)),
    Key("conflict.hold_off", forms.duration_form(bounds.HOLD_OFF)),
    Key("reconcile_interval", forms.duration_form(bounds.RECONCILE_INTERVAL)),
    Key("hint_port", forms.HINT_PORT),
    Key("control_socket", forms.CONTROL_SOCKET),
)
BY_NAME = {key.name: key for key in KEYS}

# As the file nests them: {"interval": Key, ..., "rate_limit": {"frames_per_second": Key, ...}}.
TREE: dict[str, Any] = {}
for _key in KEYS:
    _section, _, _name = _key.name.rpartition(".")
    (TREE.setdefault(_section, {}) if _section else TREE)[_name] = _key
