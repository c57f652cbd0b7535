"""What the daemon finds on real interfaces, and the reason for each address it leaves out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, TinyLab
from tests.netns.agent import QUIET, WITHOUT_CHECK, Agent, Capture, Site, command, until

# "link address" in the guest: the link of the peer where its frames arrive.
ANNOUNCED = {
    "eth0 192.0.2.10": "eth0",
    "eth0 192.0.2.11": "eth0",  # a secondary
    "eth0 192.0.2.12": "eth0",  # with the label eth0:1
    "eth0 10.9.9.1": "eth0",  # a /32 with a peer
    "eth0 10.9.8.1": "eth0",  # a /32 without a peer
    "eth0 2001:db8::10": "eth0",
    "eth0 2001:db8::11": "eth0",
    "eth0 2001:db8::dead": "eth0",  # deprecated
    "br0 198.51.100.1": "eth1",  # on a bridge over eth1
    "mv0 192.0.2.31": "eth0",  # on a macvlan over eth0
    "vxlan0 203.0.113.1": "vxlan0",  # on a VXLAN over eth0
}
SKIPPED = {
    "lo 127.0.0.1": "loopback",
    "lo ::1": "loopback",
    "eth0 169.254.7.7": "link-local IPv4",
    "eth0 192.0.2.200": "scope host",
    "eth1 198.51.100.99": "port of a bridge, bond or team",
    "nocarrier 192.0.2.41": "no carrier",
    "down 192.0.2.42": "down",
    "private0 192.0.2.43": "name in interfaces.exclude",
    "ifb1 192.0.2.47": "kind in interfaces.exclude_kinds",
    "eth0 192.0.2.48": "in addresses.exclude",
    "tun0 192.0.2.44": "point-to-point",
    "tap0 192.0.2.45": "no carrier",
    "ifb0 192.0.2.46": "no ARP on this link (NOARP)",
}
EXCLUDING = f"""{QUIET}
interfaces: {{exclude: ['private*'], exclude_kinds: [ifb]}}
addresses: {{exclude: [192.0.2.48/31]}}
"""


class Zoo(TinyLab):
    """A guest with every kind of link that this kernel makes; its frames arrive at the peer."""

    def __init__(self) -> None:
        super().__init__(ipv6=True)

    def build(self) -> None:
        super().build()
        self.wire(
            ("guest", "eth1", "peer", "eth1"),
            ("guest", "nocarrier", "peer", "eth2"),
            ("guest", "down", "peer", "eth3"),
            ("guest", "private0", "peer", "eth4"),
        )
        self.ip("peer", *(f"link set eth{n} up" for n in (1, 3, 4)))
        self.ip("peer", "link add vxlan0 type vxlan id 7 dstport 4789 remote 192.0.2.10 dev eth0")
        self.ip("peer", "link set vxlan0 up")
        up = ("br0", "mv0", "vxlan0", "nocarrier", "private0", "ifb0", "ifb1", "tun0", "tap0")
        self.ip(
            "guest",
            "link add br0 type bridge forward_delay 0",
            "link set eth1 up master br0",
            # Not only veths at the bridge, which would make it a bridge of containers.
            "link add vxlan1 type vxlan id 8 dstport 4789",
            "link set vxlan1 master br0",
            "link add mv0 link eth0 type macvlan mode bridge",
            "link add vxlan0 type vxlan id 7 dstport 4789 remote 192.0.2.1 dev eth0",
            "link add ifb0 type ifb",
            "link add ifb1 type ifb",
            "tuntap add mode tun name tun0",
            "tuntap add mode tap name tap0",
            "address add 192.0.2.11/24 dev eth0",
            "address add 192.0.2.12/24 dev eth0 label eth0:1",
            "address add 10.9.9.1 peer 10.9.9.2/32 dev eth0",
            "address add 10.9.8.1/32 dev eth0",
            "address add 2001:db8::11/128 dev eth0 nodad",
            "address add 169.254.7.7/16 dev eth0",
            "address add 192.0.2.200/32 dev eth0 scope host",
            "address add 192.0.2.48/32 dev eth0",
            "address add 2001:db8::dead/64 dev eth0 nodad preferred_lft 0 valid_lft 3600",
            # The other links have one address each.
            *(
                f"address add {address}/24 dev {link}"
                for link, address in map(str.split, (*ANNOUNCED, *SKIPPED))
                if link not in ("lo", "eth0")
            ),
            *(f"link set {name} up" for name in up),
            "link set ifb1 arp on",
        )
        self.wait_for_carriers("peer", "eth0", "eth1", "eth4", "vxlan0")
        self.wait_for_carriers("guest", "eth0", "br0", "mv0", "vxlan0", "private0")
        for one in ("eth0", "br0", "eth1", "ifb0", "mv0", "vxlan0", "private0", "ifb1"):
            self.ip("guest", f"link set {one} addrgenmode none", f"addr flush {one} scope link")

    def wait_for_carriers(self, role: str, *links: str) -> None:
        for link in links:
            show = ["ip", "link", "show", link]
            until(lambda s=show: "LOWER_UP" in self.run(role, s).stdout, f"{link} has a carrier")


@pytest.fixture(scope="module")
def zoo(labs: None) -> Iterator[Zoo]:
    """One zoo for all tests: they only look at it."""
    with Zoo() as made:
        yield made


def reasons(links: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return for each "link address" why it is skipped, None if it is announced."""
    return {
        f"{link['interface']} {address['address']}": address["skipped"]
        for link in links
        for address in link["addresses"]
    }


def test_list_without_privilege_tells_every_address_with_its_reason(
    zoo: Zoo, short_path: Path
) -> None:
    file = short_path / "config.yaml"
    file.write_text(EXCLUDING)
    short_path.chmod(0o755)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    done = command(zoo, "list", "--json", "-c", str(file), prefix=nobody)
    assert done.returncode == 0, done.stderr
    assert reasons(json.loads(done.stdout)) == {**dict.fromkeys(ANNOUNCED), **SKIPPED}


def test_each_announced_address_arrives_at_its_peer_and_no_other(zoo: Zoo, tmp_path: Path) -> None:
    with ExitStack() as stack:
        captures = {
            link: stack.enter_context(Capture(zoo, "peer", link))
            for link in ("eth0", "eth1", "eth3", "eth4", "vxlan0")
        }
        config = EXCLUDING + WITHOUT_CHECK
        agent = stack.enter_context(Agent(zoo, tmp_path, config=config))
        links = agent.status()["links"]
        assert reasons(links) == {**dict.fromkeys(ANNOUNCED), **SKIPPED}
        until(lambda: agent.sent() >= len(ANNOUNCED), "one frame for each address is sent")
        # Each frame has the hardware address of its own link.
        macs = {link["interface"]: link["hardware_address"] for link in links}
        assert len({macs["eth0"], macs["br0"], macs["mv0"], macs["vxlan0"]}) == 4
        seen = {
            (mac, address, link)
            for link, capture in captures.items()
            for mac in macs.values()
            for address in {each.split()[1] for each in [*ANNOUNCED, *SKIPPED]}
            if capture.announcements(address, mac)
        }
    assert seen == {
        (macs[name], address, link)
        for (name, address), link in ((key.split(), link) for key, link in ANNOUNCED.items())
    }


# A name may hold any bytes but white space, "/", ":" and "%".
STRANGE = [b'a"b', b"e\x1b[31m", b"\xff\xfe", b"{}$(x)", b"[a-z]", "ü".encode()]


def test_interfaces_with_strange_names_are_announced_and_printed_safely(site: Site) -> None:
    for n, name in enumerate(map(os.fsdecode, STRANGE)):
        site.add_link(name, f"192.0.2.{100 + n}")
    with site.start_without_refresh("-v") as agent:
        for n, name in enumerate(map(os.fsdecode, STRANGE)):
            address = f"192.0.2.{100 + n}"
            assert agent.announced(name) == {address}
            assert agent.log("address-announced", interface=name)
            entry = agent.addresses(name)[address]
            assert (entry["sent"], entry["dropped"]) == (2, {})
        assert agent.addresses("eth0")[GUEST_ADDRESS]["sent"] == 2
        strict = ("env", "PYTHONIOENCODING=utf-8:strict")
        status = ["status", "--control-socket", str(agent.control)]
        for asked in (["list"], status, [*status, "--prometheus"]):
            done = command(site.lab, *asked, prefix=strict)
            assert done.returncode == 0, done.stderr
            assert "\x1b" not in done.stdout
            assert "192.0.2.102" in done.stdout
        for asked in (["list"], status):
            assert "192.0.2.102" in command(site.lab, *asked, "--json").stdout


def test_tentative_address_is_announced_after_duplicate_address_detection(site6: Site) -> None:
    with site6.start() as agent:
        site6.wire.wait_for(GUEST_ADDRESS6)
        site6.sysctl("guest", "net.ipv6.conf.eth0.dad_transmits=2")
        site6.guest("address add 2001:db8::77/64 dev eth0")
        until(lambda: "2001:db8::77" in agent.addresses(), "the address is known")
        agent.burst()
        site6.wire.wait_for("2001:db8::77")
        shown = site6.lab.run("guest", ["ip", "-json", "address", "show", "tentative"]).stdout
        assert "2001:db8::77" not in shown
        assert agent.addresses()["2001:db8::77"]["last_cause"] == "address-added"


def test_duplicate_address_is_never_announced(site6: Site) -> None:
    site6.lab.ip("peer", "address add 2001:db8::66/64 dev eth0 nodad")
    with site6.start() as agent:
        site6.guest("address add 2001:db8::66/64 dev eth0")

        def failed() -> bool:
            agent.burst()
            skipped = agent.addresses().get("2001:db8::66", {}).get("skipped")
            return bool(skipped == "duplicate address detection failed")

        until(failed, "the duplicate is seen")
        agent.burst()
        site6.wire.wait_for(GUEST_ADDRESS)
        assert site6.wire.announcements("2001:db8::66") == []
