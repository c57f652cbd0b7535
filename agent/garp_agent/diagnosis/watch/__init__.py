"""``garp-agent watch``: shows announcements on the wire."""
