"""``garp-agent doctor``: checks the whole chain."""
