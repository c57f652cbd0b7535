"""The pure core: values in, values out.  No sockets, clocks, files or randomness of its own."""
