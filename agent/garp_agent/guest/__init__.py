"""The agent: what runs in a guest."""
