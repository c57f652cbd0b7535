"""``garp-agent doctor``: checks the chain from the kernel's addresses to the frames on the wire."""
