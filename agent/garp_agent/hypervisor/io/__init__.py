"""The watcher's sockets."""
