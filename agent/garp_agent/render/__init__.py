"""Text and metrics from plain values."""
