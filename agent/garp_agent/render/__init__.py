"""Plain values as text."""
