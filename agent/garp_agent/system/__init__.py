"""Input and output only, without policy: one owner of one file descriptor per module."""
