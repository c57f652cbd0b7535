"""The agent's sockets and devices."""
