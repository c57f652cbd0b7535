"""``doctor`` of both programs and ``garp-agent watch``, which look at them from outside.

The only folder that imports netifaces, and only inside a function, where it is installed: it sees
the addresses independently of the agent's own code.  The daemons never load it.
"""
