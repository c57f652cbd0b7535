"""``garp-hint doctor``: the host's end of the chain, from the bonds to the guests' replies."""
