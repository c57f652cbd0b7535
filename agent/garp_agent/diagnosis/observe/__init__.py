"""The command ``garp-agent watch``: shows the announcements on the wire, sends nothing.

Not the watcher of a hypervisor, ``garp-hint watch``: that daemon is ``garp_agent.hypervisor``.
"""
