"""On which links the daemon speaks, and for which of their addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether

from bench.lab import GUEST_ADDRESS, GUEST_MAC, PEER_MAC, TinyLab
from tests.netns.agent import (
    OTHER_MAC,
    QUIET,
    RARP,
    WITH_RARP,
    Agent,
    Capture,
    Site,
    believed,
    command,
    set_entry,
    until,
)
from tests.netns.keepalived import start_keepalived

MACVLAN_MAC = "02:00:5e:00:53:55"
ANOTHER_MAC = "02:00:5e:00:53:99"
FREQUENT = "interval: 100ms\ninterval_with_lease: 100ms\nburst: [0s]\n"


# -- deprecated addresses ------------------------------------------------------------------


def test_deprecated_ipv6_address_is_announced_unless_configured_not_to(site6: Site) -> None:
    # As keepalived and kube-vip set their IPv6 addresses.
    site6.guest("address add 2001:db8::100/128 dev eth0 nodad preferred_lft 0")
    with site6.start() as agent:
        site6.wire.wait_for("2001:db8::100")
        agent.reload(f"{QUIET}addresses: {{deprecated: false}}\n")
        agent.wait_for_log("configuration-loaded")
        assert agent.addresses()["2001:db8::100"]["skipped"] == "deprecated"
        site6.wire.clear()
        agent.burst()
        site6.wire.wait_for(GUEST_ADDRESS)
        assert site6.wire.announcements("2001:db8::100") == []


# -- links that have no address to announce --------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "config"),
    [
        pytest.param(["169.254.7.7/16"], "", id="link-local IPv4"),
        pytest.param([], "", id="none"),
        pytest.param(["192.0.2.10/24"], "addresses: {exclude: [192.0.2.0/24]}\n", id="excluded"),
        pytest.param(["192.0.2.10/24"], "addresses: {ipv4: false}\n", id="family off"),
        pytest.param(["192.0.2.10/32 scope host"], "", id="scope host"),
    ],
)
def test_link_without_address_to_announce_sends_its_hardware_address_at_each_refresh(
    site: Site, addresses: list[str], config: str
) -> None:
    site.guest("address flush dev eth0", *(f"address add {each} dev eth0" for each in addresses))
    with site.start(config=FREQUENT + config):
        site.wire.wait_for(RARP, count=3)
        assert {RARP} == {RARP if p.type == 0x8035 else "" for p in site.wire.announcements()}


def test_link_whose_only_address_failed_duplicate_detection_sends_its_hardware_address(
    site6: Site,
) -> None:
    site6.guest("address flush dev eth0")
    site6.lab.ip("peer", "address add 2001:db8::66/64 dev eth0 nodad")
    site6.guest("address add 2001:db8::66/64 dev eth0")
    with site6.start(config=FREQUENT) as agent:

        def failed() -> bool:
            skipped = agent.addresses().get("2001:db8::66", {}).get("skipped")
            return bool(skipped == "duplicate address detection failed")

        until(failed, "the duplicate is seen")
        site6.wire.clear()
        site6.wire.wait_for(RARP, count=2)
        assert site6.wire.announcements("2001:db8::66") == []


def test_excluded_interface_without_addresses_sends_nothing(site2: Site) -> None:
    site2.guest("address flush dev eth0", "address flush dev eth1")
    with site2.start(config=f"{FREQUENT}interfaces: {{exclude: [eth1]}}\n") as agent:
        site2.wire.wait_for(RARP, count=3)
        assert agent.link("eth1")["addresses"] == []  # type: ignore[index]
        assert site2.lab.sent_frames("guest", "eth1") == 0


def test_ports_and_loopback_without_addresses_send_nothing(site2: Site) -> None:
    site2.guest(
        "link add br0 type bridge forward_delay 0",
        "link set eth1 master br0",
        f"link set br0 address {OTHER_MAC} up",
        "address flush dev eth1",
        "link set lo up",
    )
    with site2.start(config=FREQUENT) as agent:
        agent.send_more(5)
        rows = {each["interface"]: each["addresses"] for each in agent.status()["links"]}
        assert [row for row in rows["lo"] if row["skipped"] is None] == []
        assert rows["eth1"] == []


# -- hardware addresses of virtual routers -----------------------------------------------------

VIRTUAL_ROUTERS = [
    "00:00:5e:00:01:33",
    "00:00:5e:00:02:33",
    "00:00:0c:07:ac:33",
    "00:00:0c:9f:f1:23",
    "00:05:73:a0:01:23",
    "00:07:b4:00:01:02",
]


def advertise_prefix(site: Site, prefix: str, lifetime: int) -> None:
    """Let the peer send a router advertisement from which hosts make addresses."""
    option = ICMPv6NDOptPrefixInfo(
        prefix=prefix, prefixlen=64, L=1, A=1, validlifetime=lifetime, preferredlifetime=lifetime
    )
    packet = IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=0) / option
    with site.lab.packet_socket("peer", "eth0") as sending:
        sending.send(bytes(Ether(src=PEER_MAC, dst="33:33:00:00:00:01") / packet))


@pytest.mark.parametrize(
    ("mac", "item"),
    [
        *((mac, "192.0.2.100/24") for mac in VIRTUAL_ROUTERS),
        (VIRTUAL_ROUTERS[0], "192.0.2.100/32 scope link"),
    ],
)
def test_virtual_router_mac_speaks_only_while_a_virtual_address_is_there(
    site: Site, mac: str, item: str
) -> None:
    site.guest(
        f"link add vr0 link eth0 address {mac} type macvlan mode bridge",
        "link set vr0 up",
        "address add 169.254.7.7/16 dev vr0",
    )
    with site.start(config=WITH_RARP) as agent:
        agent.burst()
        site.wire.wait_for(GUEST_ADDRESS)
        site.guest(f"address add {item} dev vr0")
        site.wire.wait_for("192.0.2.100", mac=mac)
        assert len(site.wire.announcements(mac=mac)) == 1, "nothing before the address"
        assert agent.addresses("vr0")["192.0.2.100"]["last_cause"] == "address-added"
        site.guest(f"address del {item} dev vr0")
        agent.wait_for_log("link-withdrawn", interface="vr0")
        site.wire.clear()
        agent.burst()
        site.wire.wait_for(GUEST_ADDRESS)
        assert site.wire.announcements(mac=mac) == []
        shown = agent.link("vr0")["skipped"]  # type: ignore[index]
        assert "virtual router" in shown


def test_link_that_a_protocol_holds_down_is_silent_also_when_the_kernel_gives_it_a_carrier(
    site: Site,
) -> None:
    """FRR's VRRP on a backup: the virtual address stays on the macvlan, which has `protodown`."""
    site.guest(
        f"link add vr0 link eth0 address {VIRTUAL_ROUTERS[0]} type macvlan mode bridge",
        "address add 192.0.2.100/24 dev vr0",
        "link set vr0 up",
        "link set vr0 protodown on",
        "link set eth0 down",
        "link set eth0 up",
    )
    flags = site.lab.run("guest", ["ip", "link", "show", "vr0"]).stdout
    assert "protodown on" in flags
    assert "LOWER_UP" in flags
    with site.start(config=WITH_RARP) as agent:
        agent.burst()
        site.wire.wait_for(GUEST_ADDRESS)
        assert site.wire.announcements(mac=VIRTUAL_ROUTERS[0]) == []
        assert agent.link("vr0")["skipped"] == "no carrier"  # type: ignore[index]
        site.guest("link set vr0 protodown off")
        site.wire.wait_for("192.0.2.100", mac=VIRTUAL_ROUTERS[0])


@pytest.mark.parametrize("lifetime", [3600, 0xFFFFFFFF], ids=["an hour", "for ever"])
def test_virtual_router_mac_with_autoconfigured_address_is_silent(
    site6: Site, lifetime: int
) -> None:
    mac = VIRTUAL_ROUTERS[1]
    site6.guest(f"link add vr0 link eth0 address {mac} type macvlan mode bridge", "link set vr0 up")
    for setting in ("addr_gen_mode=3", "use_tempaddr=2", "dad_transmits=0"):
        site6.sysctl("guest", f"net.ipv6.conf.vr0.{setting}")

    with site6.start(config=WITH_RARP) as agent:

        def autoconfigured() -> bool:
            advertise_prefix(site6, "2001:db8:99::", lifetime)
            return sum(text.startswith("2001:db8:99:") for text in agent.addresses("vr0")) >= 2

        until(autoconfigured, "a stable and a temporary address are there")
        # keepalived's IPv6 addresses: valid for ever, never preferred.
        site6.guest("address add 2001:db8:99::1/64 dev vr0 nodad preferred_lft 0")
        site6.wire.wait_for("2001:db8:99::1", mac=mac)
        site6.guest("address del 2001:db8:99::1/64 dev vr0")
        agent.wait_for_log("link-withdrawn", interface="vr0")
        site6.wire.clear()
        agent.burst()
        site6.wire.wait_for(GUEST_ADDRESS)
        assert site6.wire.announcements(mac=mac) == []
        assert agent.announced("vr0") == set()


def has_address(lab: TinyLab, role: str, address: str) -> bool:
    shown = lab.run(role, ["ip", "-json", "address", "show"]).stdout
    return any(
        info.get("local") == address for link in json.loads(shown) for info in link["addr_info"]
    )


@pytest.mark.parametrize("more", ["", "vmac_xmit_base"], ids=["defaults", "vmac_xmit_base"])
@pytest.mark.parametrize(
    ("address", "mac", "use"),
    [
        ("192.0.2.100", "00:00:5e:00:01:33", "use_vmac"),
        ("2001:db8::100", "00:00:5e:00:02:33", "use_vmac"),
        ("fe80::100", "00:00:5e:00:02:33", "use_vmac"),
        ("192.0.2.100", OTHER_MAC, f"use_vmac vrrp.51 {OTHER_MAC}"),
        ("2001:db8::100", OTHER_MAC, f"use_vmac vrrp.51 {OTHER_MAC}"),
    ],
    ids=["IPv4", "IPv6", "link-local IPv6", "IPv4, own MAC", "IPv6, own MAC"],
)
def test_keepalived_backup_is_silent_and_master_speaks(
    labs: None, tmp_path: Path, more: str, address: str, mac: str, use: str
) -> None:
    with TinyLab(ipv6=True) as lab, Capture(lab) as wire:
        vmac = ("advert_int 1", use)
        master = start_keepalived(lab, "peer", tmp_path, address, 200, *vmac, "vmac_xmit_base")
        until(lambda: has_address(lab, "peer", address), "the peer is the master")
        with Agent(lab, tmp_path, config=FREQUENT) as agent:
            start_keepalived(lab, "guest", tmp_path, address, 100, *vmac, more)
            link = until(
                lambda: [
                    each["interface"]
                    for each in agent.status()["links"]
                    if each["hardware_address"] == mac
                ],
                "the virtual interface is there",
            )[0]
            wire.clear()
            agent.send_more(10)
            assert wire.announcements(mac=mac) == []
            assert agent.announced(link) == set()
            lab.stop(master, 9)
            until(lambda: address in agent.announced(link), "the guest is the master")
            wire.wait_for(address, mac=mac, count=20)  # more than keepalived's own


# -- links that lead to containers -----------------------------------------------------------


def add_docker(site: Site, count: int = 2) -> None:
    """Make docker0 as docker does, with ``count`` containers at it."""
    site.guest(
        "link add docker0 type bridge forward_delay 0",
        "address add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
        *(
            line
            for n in range(count)
            for line in (
                f"link add vethd{n} type veth peer name c{n} netns {site.lab.namespace('peer')}",
                f"link set vethd{n} master docker0 up",
            )
        ),
    )
    site.lab.ip("peer", *(f"link set c{n} up" for n in range(count)))


def add_calico(site: Site, count: int) -> None:
    """Make the host ends of pods as Calico does; their address is the same for all."""
    peer = site.lab.namespace("peer")
    site.guest(
        *(
            line
            for n in range(count)
            for line in (
                f"link add cali{n} type veth peer name pod{n} netns {peer}",
                f"link set cali{n} address ee:ee:ee:ee:ee:ee addrgenmode none up",
            )
        )
    )
    site.lab.ip("peer", *(f"link set pod{n} up" for n in range(count)))


def test_links_to_containers_are_silent_unless_named_in_include(site: Site) -> None:
    add_docker(site)
    add_calico(site, 5)
    quiet = ["docker0", *(f"cali{n}" for n in range(5))]
    site.lab.wait_until_up("guest")
    with ExitStack() as stack:
        ends = ("c0", "c1", *(f"pod{n}" for n in range(5)))
        wires = [stack.enter_context(Capture(site.lab, "peer", name)) for name in ends]
        agent = stack.enter_context(site.start(config=FREQUENT))
        agent.send_more(20)
        # ARP and RARP; the kernel itself sends IGMP.
        assert [
            f for wire in wires for f in wire.read() if f[12:14] in (b"\x08\x06", b"\x80\x35")
        ] == []
        for name in quiet:
            assert "containers" in agent.link(name)["skipped"]  # type: ignore[index]
        agent.reload(f"{FREQUENT}interfaces: {{include: [eth0, docker0]}}\n")
        until(lambda: "172.17.0.1" in agent.announced("docker0"), "docker0 is announced")
        agent.reload(f"{FREQUENT}interfaces: {{include: ['*']}}\n")
        until(lambda: agent.announced("cali4"), "the hardware address of cali4 is announced")


def test_hundred_and_ten_pods_cause_no_frames_into_them(site6: Site) -> None:
    add_calico(site6, 110)
    site6.guest(
        *(f"address add fe80::ecee:eeee:eeee:eeee/64 dev cali{n} nodad" for n in range(110))
    )
    with site6.start(config=FREQUENT) as agent:
        agent.send_more(20)
        rows = agent.status()["links"]
        sent = [row for row in rows if any(each["skipped"] is None for each in row["addresses"])]
        assert [row["interface"] for row in sent] == ["eth0"]


def test_pods_with_a_gateway_address_without_a_subnet_get_no_frames(site: Site) -> None:
    """As the CNI plugin ptp makes them."""
    add_calico(site, 5)
    for n in range(5):
        site.guest(
            f"address add 10.4.0.1/32 dev cali{n}", f"route add 10.4.0.{n + 10}/32 dev cali{n}"
        )
    site.lab.wait_until_up("guest")
    with ExitStack() as stack:
        wires = [stack.enter_context(Capture(site.lab, "peer", f"pod{n}")) for n in range(5)]
        agent = stack.enter_context(site.start(config=FREQUENT))
        agent.send_more(20)
        frames = [f for wire in wires for f in wire.read()]
        assert [f for f in frames if f[12:14] in (b"\x08\x06", b"\x80\x35")] == []
        for n in range(5):
            assert "containers" in agent.link(f"cali{n}")["skipped"]  # type: ignore[index]


def test_own_link_of_a_container_without_a_subnet_is_announced(site: Site) -> None:
    """As Calico makes it, also with a second link."""
    site.guest("address flush dev eth0", f"address add {GUEST_ADDRESS}/32 dev eth0")
    with site.start(config=FREQUENT):
        site.wire.wait_for(GUEST_ADDRESS, count=3)
        site.guest(
            "route add 169.254.1.1 dev eth0",
            "route add default via 169.254.1.1 dev eth0",
            "link add vx0 type vxlan id 7 dstport 4789",
            "address add 198.51.100.10/24 dev vx0",
            "link set vx0 up",
        )
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=12)


def test_the_only_link_of_a_container_is_announced_also_without_addresses(site: Site) -> None:
    site.guest("address flush dev eth0")
    add_docker(site, 0)
    with site.start(config=FREQUENT) as agent:
        site.wire.wait_for(RARP, count=2)
        # Another link, which does not need eth0: now eth0 leads to a container.
        site.guest("link add vx0 type vxlan id 7 dstport 4789", "link set vx0 up")
        agent.wait_for_log("link-withdrawn", interface="eth0")
        # A macvlan that needs eth0.
        site.guest("link add mv0 link eth0 type macvlan mode bridge")
        site.wire.clear()
        site.wire.wait_for(RARP, count=2)
        site.guest("link del mv0")
        agent.wait_for_log("link-withdrawn", count=2, interface="eth0")
        site.guest("link del vx0")
        site.wire.clear()
        site.wire.wait_for(RARP, count=2)


def test_bridge_with_another_port_than_containers_is_announced(site: Site) -> None:
    add_docker(site)
    site.guest("link add mv0 link eth0 type macvlan mode bridge", "link set mv0 master docker0 up")
    with site.start(config=FREQUENT) as agent:
        until(lambda: "172.17.0.1" in agent.announced("docker0"), "the bridge is announced")
        site.guest("link set mv0 nomaster")
        agent.wait_for_log("link-withdrawn", interface="docker0")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("tuntap add mode tap name eth1", id="VPN without a carrier"),
        pytest.param("link add eth1 type vxlan id 7 dstport 4789", id="link with a carrier"),
    ],
)
def test_bridge_of_a_container_with_the_default_route_is_announced_beside_other_links(
    site: Site, other: str
) -> None:
    bridge_in_container(site)
    site.guest(other, "link set eth1 up", "address add 198.51.100.10/24 dev eth1")
    with site.start(config=FREQUENT) as agent:
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=3)
        assert agent.link("br0")["skipped"] is None  # type: ignore[index]


@pytest.mark.parametrize("own", ["bridge", "link without a subnet"])
def test_link_of_the_default_route_is_announced_also_behind_the_routes_of_a_vpn(
    site: Site, own: str
) -> None:
    """`redirect-gateway def1` of OpenVPN: two routes that together come before the default one."""
    if own == "bridge":
        bridge_in_container(site)
    else:
        site.guest(
            "address flush dev eth0",
            f"address add {GUEST_ADDRESS}/32 dev eth0",
            "route add 192.0.2.1 dev eth0",
            "route add default via 192.0.2.1",
        )
    site.guest(
        "link add vpn0 type vxlan id 7 dstport 4789",
        "link set vpn0 up",
        "address add 198.51.100.10/24 dev vpn0",
        "route add 0.0.0.0/1 via 198.51.100.1",
        "route add 128.0.0.0/1 via 198.51.100.1",
    )
    with site.start(config=FREQUENT):
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=3)


def test_default_route_that_comes_after_the_address_makes_its_link_announced(site: Site) -> None:
    bridge_in_container(site)
    site.guest(
        "link add eth1 type vxlan id 7 dstport 4789",
        "link set eth1 up",
        "address add 198.51.100.10/24 dev eth1",
    )
    site.guest("route del default")
    with site.start(config=FREQUENT) as agent:
        agent.send_more(10)
        assert "containers" in agent.link("br0")["skipped"]  # type: ignore[index]
        site.guest("address add 192.0.2.11/24 dev br0", "route add default via 192.0.2.1")
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=3)


def test_default_route_that_comes_back_alone_makes_its_link_announced_again(site: Site) -> None:
    bridge_in_container(site)
    site.guest(
        "link add eth1 type vxlan id 7 dstport 4789",
        "link set eth1 up",
        "address add 198.51.100.10/24 dev eth1",
    )
    with site.start(config=FREQUENT) as agent:
        agent.send_more(20)  # 2 s: the looks because of the start are over, but for late ones
        site.guest("route del default", "address add 198.51.100.11/24 dev eth1")
        agent.wait_for_log("link-withdrawn", interface="br0")
        site.guest("route add default via 192.0.2.1")
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=3)
        assert agent.link("br0")["skipped"] is None  # type: ignore[index]


def bridge_in_container(site: Site) -> None:
    """Put eth0 into a bridge that has its addresses and the default route."""
    site.guest(
        "link add br0 type bridge forward_delay 0",
        f"link set br0 address {GUEST_MAC} up",
        "address flush dev eth0",
        "link set eth0 master br0",
        f"address add {GUEST_ADDRESS}/24 dev br0",
        "route add default via 192.0.2.1",
    )
    site.lab.wait_until_up("guest")


def test_links_to_containers_stay_silent_while_the_uplink_is_set_down(site: Site) -> None:
    add_calico(site, 1)
    site.lab.wait_until_up("guest")
    with Capture(site.lab, "peer", "pod0") as wire, site.start(config=FREQUENT) as agent:
        site.guest("link set eth0 down")
        agent.wait_for_log("link-withdrawn", interface="eth0")
        agent.burst()
        site.guest("link set eth0 up")
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=3)
        assert [f for f in wire.read() if f[12:14] in (b"\x08\x06", b"\x80\x35")] == []


def test_bridge_joined_to_that_of_the_nic_by_a_pair_is_announced(site: Site) -> None:
    site.guest(
        "link add mv0 link eth0 type macvlan mode bridge",
        "link add br0 type bridge forward_delay 0",
        "link set mv0 master br0 up",
        "link set br0 up",
        "link add v0 type veth peer name v1",
        "link add br1 type bridge forward_delay 0",
        f"link set br1 address {OTHER_MAC} up",
        "link set v0 master br0 up",
        "link set v1 master br1 up",
        "address add 198.51.100.20/24 dev br1",
    )
    site.lab.wait_until_up("guest")
    with site.start(config=FREQUENT) as agent:
        site.wire.wait_for("198.51.100.20", mac=OTHER_MAC, count=2)
        site.guest("link set mv0 nomaster")
        agent.wait_for_log("link-withdrawn", interface="br1")
        agent.reload(QUIET)
        agent.wait_for_log("configuration-loaded")
        site.guest("link set mv0 master br0")
        site.wire.clear()
        site.wire.wait_for("198.51.100.20", mac=OTHER_MAC)
        # The link is back at the bottom of the stack: its bridges have moved with it.
        site.wire.clear()
        site.guest("link set mv0 down", "link set mv0 up")
        site.wire.wait_for("198.51.100.20", mac=OTHER_MAC)


# -- one address on two links of one segment -----------------------------------------------------


@pytest.fixture
def both(bridged: Site) -> Site:
    """guest eth0, eth1 -- switch -- peer; both links of the guest are in one segment"""
    bridged.lab.wire(("guest", "eth1", "switch", "second"))
    bridged.lab.ip("switch", "link set second up master br0")
    bridged.guest(f"link set eth1 address {OTHER_MAC} up")
    bridged.lab.wait_until_up("guest", "switch")
    return bridged


def preferred(site: Site, destination: str) -> str:
    shown = site.lab.run("guest", ["ip", "-json", "route", "get", destination]).stdout
    return str(json.loads(shown)[0]["dev"])


def speaker(site: Site, agent: Agent, address: str = GUEST_ADDRESS) -> str:
    """Return the link whose hardware address announces an address, over many refreshes."""
    site.wire.clear()
    agent.send_more(20)
    macs = {"eth0": GUEST_MAC, "eth1": OTHER_MAC}
    (name,) = [name for name, mac in macs.items() if site.wire.announcements(address, mac)]
    return name


def test_address_on_two_links_of_a_segment_is_announced_where_the_route_leads(both: Site) -> None:
    both.guest(f"address add {GUEST_ADDRESS}/24 dev eth1")
    with both.start(config=FREQUENT) as agent:
        assert speaker(both, agent) == preferred(both, "192.0.2.77") == "eth0"
        reason = agent.addresses("eth1")[GUEST_ADDRESS]["skipped"]
        assert "another link of this segment" in reason
        # The switches still learn where the other hardware address is.
        both.wire.wait_for(RARP, mac=OTHER_MAC)
        listed = command(both.lab, "list").stdout
        shown = command(both.lab, "status", "--control-socket", str(agent.control)).stdout
        for text in (listed, shown):
            assert reason in text
        # The kernel makes the route of eth0 anew, and uses that of eth1.
        both.guest(
            f"address del {GUEST_ADDRESS}/24 dev eth0", f"address add {GUEST_ADDRESS}/24 dev eth0"
        )
        until(lambda: GUEST_ADDRESS in agent.announced("eth1"), "eth1 announces")
        assert speaker(both, agent) == preferred(both, "192.0.2.77") == "eth1"


@pytest.mark.parametrize("change", ["link set eth0 down", "address del {}/24 dev eth0"])
def test_address_on_two_links_is_announced_by_the_other_when_the_first_is_gone(
    both: Site, change: str
) -> None:
    both.guest(f"address add {GUEST_ADDRESS}/24 dev eth1")
    with both.start(config=FREQUENT) as agent:
        assert speaker(both, agent) == "eth0"
        both.guest(change.format(GUEST_ADDRESS))
        until(lambda: GUEST_ADDRESS in agent.announced("eth1"), "eth1 announces")
        assert agent.addresses("eth1")[GUEST_ADDRESS]["last_cause"] in ("address-added", "refresh")


def test_virtual_address_on_two_links_with_a_common_subnet_is_announced_on_one(both: Site) -> None:
    both.guest(
        "address add 192.0.2.20/24 dev eth1 metric 5",
        "address add 192.0.2.100/32 dev eth0",
        "address add 192.0.2.100/32 dev eth1",
        "route del 192.0.2.0/24 dev eth0",
        "route add 192.0.2.0/24 dev eth0 metric 9",
    )
    with both.start(config=FREQUENT) as agent:
        assert speaker(both, agent, "192.0.2.100") == preferred(both, "192.0.2.77") == "eth1"
        assert speaker(both, agent) == "eth0"
        assert agent.announced("eth1") == {"192.0.2.20", "192.0.2.100"}


def test_address_that_comes_with_the_better_route_is_announced_on_its_link(both: Site) -> None:
    both.guest(
        f"address del {GUEST_ADDRESS}/24 dev eth0",
        f"address add {GUEST_ADDRESS}/24 dev eth0 metric 9",
    )
    with both.start(config=FREQUENT) as agent:
        assert speaker(both, agent) == "eth0"
        # The kernel reports the address before it makes the route.
        both.guest(f"address add {GUEST_ADDRESS}/24 dev eth1 metric 5")
        until(lambda: agent.announced("eth1") == {GUEST_ADDRESS}, "eth1 announces")
        assert speaker(both, agent) == preferred(both, "192.0.2.77") == "eth1"


def test_address_on_two_links_of_different_subnets_is_announced_on_both(both: Site) -> None:
    both.guest(
        "address add 198.51.100.10/24 dev eth1",
        "address add 192.0.2.100/32 dev eth0",
        "address add 192.0.2.100/32 dev eth1",
    )
    with both.start(config=FREQUENT) as agent:
        for name in ("eth0", "eth1"):
            assert "192.0.2.100" in agent.announced(name)


def two_macvlans_of_a_container(site: Site) -> dict[str, str]:
    """Add two macvlans whose NIC is in another network namespace."""
    macs = {"mv0": MACVLAN_MAC, "mv1": OTHER_MAC}
    site.lab.ip("peer", "link add w0 type veth peer name x0", "link set w0 up", "link set x0 up")
    for name, mac in macs.items():
        site.lab.ip(
            "peer",
            f"link add link x0 name {name} address {mac} type macvlan mode bridge",
            f"link set {name} netns {site.lab.namespace('guest')}",
        )
        site.guest(f"link set {name} up")
    return macs


def bridge_and_end_of_its_pair(site: Site) -> dict[str, str]:
    """Add a bridge with a NIC, and a pair of which one end is its port."""
    site.lab.ip("peer", "link add w0 type veth peer name x0", "link set w0 up")
    site.lab.ip("peer", f"link set x0 netns {site.lab.namespace('guest')}")
    site.guest(
        f"link add br0 address {MACVLAN_MAC} type bridge forward_delay 0",
        "link set x0 master br0 up",
        "link set br0 up",
        f"link add v0 type veth peer name v1 address {OTHER_MAC}",
        "link set v0 master br0 up",
        "link set v1 up",
    )
    return {"br0": MACVLAN_MAC, "v1": OTHER_MAC}


@pytest.mark.parametrize("add_links", [two_macvlans_of_a_container, bridge_and_end_of_its_pair])
def test_virtual_address_on_two_links_of_one_wire_is_announced_on_one(
    site: Site, add_links: Callable[[Site], dict[str, str]]
) -> None:
    site.guest("link set eth0 down")
    macs = add_links(site)
    for n, name in enumerate(macs):
        site.guest(f"address add 10.0.{n}.5/24 dev {name}", f"address add 192.0.2.50/32 dev {name}")
    site.lab.wait_until_up("guest")
    with site.start(config=FREQUENT) as agent, Capture(site.lab, "peer", "w0") as wire:
        reasons = {name: agent.addresses(name)["192.0.2.50"]["skipped"] for name in macs}
        (silent,) = [name for name, reason in reasons.items() if reason]
        assert "another link of this segment" in reasons[silent]
        for n, mac in enumerate(macs.values()):
            wire.wait_for(f"10.0.{n}.5", mac=mac, count=3)
        sent = {name for name, mac in macs.items() if wire.announcements("192.0.2.50", mac)}
        assert sent == macs.keys() - {silent}


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(["address add 192.0.2.10/25 dev eth1"], id="longer prefix"),
        pytest.param(["address add 192.0.2.10/24 scope link dev eth1"], id="scope link on one"),
        pytest.param(
            [
                "address flush dev eth0",
                "address add 192.0.2.10/24 scope link dev eth0",
                "address add 192.0.2.10/24 scope link dev eth1",
            ],
            id="scope link on both",
        ),
        pytest.param(
            [
                f"link add mv0 link eth0 address {MACVLAN_MAC} type macvlan mode bridge",
                "link set mv0 up",
                "address add 192.0.2.10/32 dev mv0",
            ],
            id="macvlan",
        ),
    ],
)
def test_peer_keeps_one_hardware_address_for_an_address_of_two_links(
    both: Site, commands: list[str]
) -> None:
    both.guest(*commands)
    with both.start(config=FREQUENT) as agent:
        set_entry(both.lab, GUEST_ADDRESS, ANOTHER_MAC)
        agent.send_more(4)
        kept = set()
        for _ in range(20):
            agent.send_more(1)
            kept.add(believed(both.lab, GUEST_ADDRESS))
        assert len(kept - {ANOTHER_MAC}) == 1, kept
        speakers = {GUEST_MAC, OTHER_MAC, MACVLAN_MAC}
        both.wire.clear()
        agent.send_more(20)
        sent = {mac for mac in speakers if both.wire.announcements(GUEST_ADDRESS, mac)}
        assert sent == {believed(both.lab, GUEST_ADDRESS)}


# -- names that select -----------------------------------------------------------------------


def test_alternative_name_selects_its_link(site2: Site) -> None:
    site2.guest("link property add dev eth0 altname enp0s3-with-a-long-name")
    config = "interfaces: {include: [enp0s3-with-*]}\n"
    with site2.start(config=QUIET + config) as agent:
        assert agent.announced("eth0") == {GUEST_ADDRESS}
        assert agent.announced("eth1") == set()
        # The kernel reports a changed list of names.
        site2.guest("link property add dev eth1 altname enp0s3-with-another-name")
        until(lambda: agent.announced("eth1"), "eth1 is announced")
        site2.guest("link property del dev eth0 altname enp0s3-with-a-long-name")
        agent.wait_for_log("link-withdrawn", interface="eth0")
        agent.reload(QUIET + config.replace("include", "exclude"))
        agent.wait_for_log("configuration-loaded")
        assert agent.announced("eth0") == {GUEST_ADDRESS}
        assert agent.announced("eth1") == set()


def test_label_selects_the_address_that_has_it(site: Site) -> None:
    site.guest("address add 192.0.2.100/24 dev eth0 label eth0:vip")
    with site.start(config=QUIET + "interfaces: {include: ['eth0:vip']}\n") as agent:
        assert agent.announced("eth0") == {"192.0.2.100"}
        agent.reload(QUIET + "interfaces: {exclude: ['eth0:*']}\n")
        agent.wait_for_log("configuration-loaded")
        assert agent.announced("eth0") == {GUEST_ADDRESS}
        assert agent.addresses()["192.0.2.100"]["skipped"] == "name in interfaces.exclude"


def test_selector_that_matches_nothing_is_said_once_and_by_check_and_list(site: Site) -> None:
    site.guest(
        "link add br0 type bridge",
        "link add nic0 type veth peer nic1",
        "link set nic0 master br0",
    )
    text = (
        f"{QUIET}interfaces: {{include: [eth0, enp9s0, nic0], exclude_kinds: [vlna]}}\n"
        "addresses: {include: [192.0.2.0/24, 10.99.0.0/16], exclude: [192.0.2.99/32]}\n"
    )
    with site.start(config=text) as agent:
        wanted = [
            ("interfaces.include", "enp9s0", "no interface, alternative name or label here m"),
            ("interfaces.include", "nic0", "matches only on links that are never announced"),
            ("interfaces.exclude_kinds", "vlna", "no link here matches"),
            ("addresses.include", "10.99.0.0/16", "no address here is in it"),
        ]
        agent.burst()
        site.guest("address add 192.0.2.100/24 dev eth0")
        site.wire.wait_for("192.0.2.100")
        lines = agent.log("selector-unmatched")
        assert [(line["key"], line["selector"]) for line in lines] == [each[:2] for each in wanted]
        for line, (_, _, reason) in zip(lines, wanted):
            assert line["reason"].startswith(reason)
        # The log leaves this one out: the address of a standby node comes and goes.
        wanted.append(("addresses.exclude", "192.0.2.99/32", "no address here is in it"))
        for words in (["check"], ["list"], ["list", "--json"]):
            done = command(site.lab, *words, "-c", str(agent.config))
            assert done.returncode == 0
            for key, selector, reason in wanted:
                assert f"{key}: {selector}: {reason}" in done.stderr
            assert len(done.stderr.splitlines()) == len(wanted)
