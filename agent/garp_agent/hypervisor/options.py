"""The command line of ``garp-hint watch``, as values."""

from __future__ import annotations

from garp_agent.hypervisor.core.bonds import DEBOUNCE
from garp_agent.hypervisor.core.learning_rules import PACE
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.hypervisor.core.lease_paths import LEASE_AFTER
from garp_agent.hypervisor.io.channels import PORT_NAME, STATUS_DIRECTORY
from garp_agent.hypervisor.io.fanout import TIMEOUT
from garp_agent.wire.record import NamedTuple

DISCOVER = 5.0  # seconds
STATUS_SOCKET = "/run/garp-hint/status.sock"


class WatchOptions(NamedTuple):
    """What ``garp-hint watch`` was told; times in seconds."""

    port: str = PORT_NAME
    channels: tuple[str, ...] = ()  # patterns
    libvirt_status: str = STATUS_DIRECTORY
    bonds: tuple[str, ...] = ()  # links to follow; (): all
    lease: float = LEASE  # 0: none
    lease_after: float = LEASE_AFTER  # without a change of the guest's path
    pace: float = 0.0  # guests a second; 0: all at once
    debounce: float = DEBOUNCE
    timeout: float = TIMEOUT  # for a guest to answer
    discover: float = DISCOVER  # between two searches for guests
    status_socket: str = STATUS_SOCKET  # "": none
    announce_self: bool = False
    verify: bool | None = None  # ask the network after failovers; None: where it is permitted
    learn: bool = False  # send learning frames
    learn_never: tuple[str, ...] = ()  # MACs or prefixes
    learn_ports: tuple[str, ...] = ()  # patterns; (): all guest ports
    learn_vlans: tuple[str, ...] = ()  # lists of the bond's VLANs; (): all
    learn_pace: int = PACE  # learning frames in a millisecond; 0: all at once
    monitors: tuple[str, ...] = ()  # patterns
    connect: str = ""  # URI of libvirt, through which other monitors are reached; "": none
    verbose: bool = False
    log_format: str = "text"  # or "json"
