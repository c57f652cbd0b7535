"""What the watcher decides: pure."""
