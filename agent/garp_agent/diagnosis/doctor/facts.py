"""What ``doctor`` knows: plain values.  ``gather`` and ``listen`` fill them; checks judge them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from garp_agent.diagnosis.sighting import Sighting

CAP_NET_RAW = 13  # <linux/capability.h>


class AgentAnswer(NamedTuple):
    """What the agent answered on its control socket."""

    path: str  # of the control socket; "" where the configuration has none
    status: dict[str, Any] | None = None  # as `garp-agent status --json` prints it
    error: str = ""  # why there is no status
    asked_at: float = 0.0  # seconds, monotonic
    took: float = 0.0  # seconds until the reply


class ProcessFacts(NamedTuple):
    """The agent's process as proc(5) shows it."""

    state: str  # "S", "T", ...
    uid: int
    groups: tuple[int, ...]
    capabilities: int  # effective


class ConfigurationFacts(NamedTuple):
    """The configuration file."""

    path: str  # "": no file, the defaults are in force
    problems: tuple[str, ...] = ()
    pace: float = 10.0  # frames a second that a link may send
    span: float = 0.4  # seconds from the first round of a burst to its last
    rounds: int = 3  # of a burst
    addresses_per_tick: int = 4  # of each family, that one refresh of a link announces
    most_in_a_second: int = 14  # frames of a NIC
    ignored: tuple[tuple[bytes, bytes], ...] = ()  # conflict.ignore


class KernelFacts(NamedTuple):
    """The machine's kernel."""

    release: str
    packet_sockets: str = ""  # why the kernel refuses AF_PACKET; "": it does not, or we may not try
    may_listen: bool = True  # this process may open AF_PACKET sockets


class Interface(NamedTuple):
    """One interface as netifaces and sysfs see it."""

    hardware_address: str
    addresses: dict[str, str]  # address -> netmask
    sysctls: dict[str, int]  # "ipv4/arp_notify" -> value
    # Addresses in duplicate address detection; the kernel sends no event for them until it ends.
    tentative: tuple[str, ...] = ()


class NftChain(NamedTuple):
    """One chain of nftables."""

    family: int  # NFPROTO_*
    table: str
    name: str
    hook: str = ""  # "input", "bridge input", ...; "": other chains call it, or it is not in force
    priority: int = 0
    devices: tuple[str, ...] = ()  # the links of the hooks ingress and egress
    accepts: bool = True  # its policy
    # Each rule: its expressions, as names with attributes of the kernel (NFTA_*).
    rules: tuple[tuple[tuple[str, dict[int, bytes]], ...], ...] = ()


class NftSet(NamedTuple):
    """One set or map of nftables."""

    flags: int  # NFT_SET_*
    key_length: int  # bytes
    elements: tuple[dict[int, bytes], ...]  # attributes of the kernel (NFTA_SET_ELEM_*)


class NftRules(NamedTuple):
    """The rules of nftables that ARP frames pass."""

    chains: tuple[NftChain, ...] = ()
    sets: Mapping[tuple[int, str, str], NftSet] = MappingProxyType({})  # by family, table, name


class ArpTable(NamedTuple):
    """The table `filter` of arptables, as bytes of the kernel."""

    entries: bytes
    first: tuple[int, ...]  # offsets of the first entries of the hooks input and output
    policies: tuple[int, ...]  # those of their policies


class ArpRules(NamedTuple):
    """The kernel's rules for ARP."""

    nft: NftRules = NftRules()  # of nftables, and of arptables that use it
    legacy: ArpTable | None = None  # of arptables; None: none
    may_have_ebtables: bool = False  # the kernel has loaded tables of ebtables-legacy


class PortFacts(NamedTuple):
    """The chain from the machine's virtio-serial controller to the hint port."""

    controllers: int  # virtio consoles on the machine's virtio bus
    driven: int  # of them, those that have a driver
    names: tuple[str, ...]  # of all virtio-serial ports
    kind: str = ""  # of what the path is: "character device", "socket", ...; "": nothing
    mode: str = ""  # as ls(1) writes it
    owner: tuple[int, int] = (0, 0)  # uid, gid
    holders: tuple[str, ...] = ()  # other processes that hold it open


class SendPlan(NamedTuple):
    """What doctor is about to send."""

    unasked: str = ""  # why doctor may send nothing; "": it may
    burst: str = ""  # why the agent is not asked for a burst; "": it is
    probes: str = ""  # why no probes are sent; "": they are


class PromisedFrame(NamedTuple):
    """One frame that the agent says it sends."""

    interface: str
    kind: str
    hardware_address: str
    address: str  # "" for RARP


class WireFacts(NamedTuple):
    """The frames on the guest's own links during a burst."""

    skipped: str = ""  # why no burst was captured
    error: str = ""  # why the capture failed
    promised: tuple[PromisedFrame, ...] = ()
    seen: tuple[tuple[str, Sighting], ...] = ()  # by interface
    waited: float = 0.0  # seconds
    paced: bool = False  # the rate limit needs longer than doctor waited
    unheard: tuple[tuple[str, str], ...] = ()  # links that doctor could not listen on, and why


class ClaimantFacts(NamedTuple):
    """Other stations that answered for our addresses."""

    skipped: str = ""
    asked: tuple[tuple[str, str], ...] = ()  # interface, address
    answers: tuple[tuple[str, str, str], ...] = ()  # interface, address, hardware address
    errors: tuple[str, ...] = ()


class Facts(NamedTuple):
    """All facts."""

    agent: AgentAnswer
    later: AgentAnswer  # a second answer, at the end
    links: list[dict[str, Any]]  # as `garp-agent list --json` prints them
    process: ProcessFacts | None
    configuration: ConfigurationFacts
    kernel: KernelFacts
    interfaces: dict[str, Interface]
    port: PortFacts
    wire: WireFacts = WireFacts(skipped="not asked for")
    claimants: ClaimantFacts = ClaimantFacts(skipped="not asked for")
    not_seen: str = ""  # why `interfaces` have no addresses; "": they have
    arp_rules: ArpRules = ArpRules()
    below: Mapping[str, list[str]] = MappingProxyType({})  # by link: its ports, or its parent
    nics: Mapping[str, int] = MappingProxyType({})  # by which NIC each link leaves, as a number
