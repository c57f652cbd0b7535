"""The hypervisor's end: sees a bond fail over and tells the guests."""
