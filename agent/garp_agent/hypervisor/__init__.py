"""The watcher: what runs on a hypervisor."""
