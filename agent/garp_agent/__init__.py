"""garp-agent: announces a guest's own addresses so that switches follow it after a failover."""

__version__ = "0.1.0"
