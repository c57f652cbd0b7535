"""Labs of network namespaces, the demo and the measurements."""
