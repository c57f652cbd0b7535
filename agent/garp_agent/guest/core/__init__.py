"""The agent's decisions, as pure code: no sockets, files, clock or randomness of its own."""
