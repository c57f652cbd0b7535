"""What the daemon finds on real interfaces, and why it leaves the rest alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, TinyLab
from tests.netns.agent import QUIET, Agent, Capture, command, forget_link_local, until

# name -> (address announced, where its frames arrive: the peer's link, and whether by IPv6)
ANNOUNCED = {
    "192.0.2.10": "eth0",  # the first of its subnet
    "192.0.2.11": "eth0",  # a secondary
    "192.0.2.12": "eth0",  # with the label eth0:1
    "10.9.9.1": "eth0",  # a /32 with a peer
    "10.9.8.1": "eth0",  # a /32 on its own
    "198.51.100.1": "eth1",  # on a bridge over eth1
    "192.0.2.31": "eth0",  # on a macvlan over eth0
    "203.0.113.1": "vxlan0",  # on a VXLAN over eth0
    "2001:db8::10": "eth0",
    "2001:db8::11": "eth0",
}


class Zoo(TinyLab):
    """guest: everything that this kernel can make; peer: where it arrives."""

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
        self.ip(
            "guest",
            "address add 192.0.2.11/24 dev eth0",
            "address add 192.0.2.12/24 dev eth0 label eth0:1",
            "address add 10.9.9.1 peer 10.9.9.2/32 dev eth0",
            "address add 10.9.8.1/32 dev eth0",
            "address add 2001:db8::11/128 dev eth0 nodad",
            "link add br0 type bridge forward_delay 0",
            "link set eth1 up master br0",
            "address add 198.51.100.99/24 dev eth1",
            "address add 198.51.100.1/24 dev br0",
            "link set br0 up",
            "link add mv0 link eth0 type macvlan mode bridge",
            "address add 192.0.2.31/24 dev mv0",
            "link set mv0 up",
            "link add vxlan0 type vxlan id 7 dstport 4789 remote 192.0.2.1 dev eth0",
            "address add 203.0.113.1/24 dev vxlan0",
            "link set vxlan0 up",
            # Not to be announced:
            "address add 169.254.7.7/16 dev eth0",
            "address add 192.0.2.200/32 dev eth0 scope host",
            "address add 2001:db8::dead/64 dev eth0 nodad preferred_lft 0 valid_lft 3600",
            "address add 192.0.2.41/24 dev nocarrier",
            "link set nocarrier up",
            "address add 192.0.2.42/24 dev down",
            "address add 192.0.2.43/24 dev private0",
            "link set private0 up",
            "tuntap add mode tun name tun0",
            "address add 192.0.2.44/24 dev tun0",
            "link set tun0 up",
            "tuntap add mode tap name tap0",
            "address add 192.0.2.45/24 dev tap0",
            "link set tap0 up",
            "link add ifb0 type ifb",
            "address add 192.0.2.46/24 dev ifb0",
            "link set ifb0 up",
        )
        self.wait_for_carriers("peer", "eth0", "eth1", "eth4", "vxlan0")
        self.wait_for_carriers("guest", "eth0", "br0", "mv0", "vxlan0", "private0")
        for one in ("eth0", "br0", "eth1", "ifb0", "mv0", "vxlan0", "private0"):
            self.ip("guest", f"link set {one} addrgenmode none", f"addr flush {one} scope link")

    def wait_for_carriers(self, role: str, *links: str) -> None:
        def have() -> set[str]:
            shown = json.loads(self.run(role, ["ip", "-json", "link", "show", "up"]).stdout)
            # Links that the filter left out are empty objects.
            return {link["ifname"] for link in shown if "LOWER_UP" in link.get("flags", ())}

        until(lambda: set(links) <= have(), f"{links} have a carrier")


@pytest.fixture(scope="module")
def zoo(labs: None) -> Iterator[Zoo]:
    """Looked at only: one for all tests."""
    with Zoo() as made:
        yield made


def reasons(links: list[dict[str, Any]]) -> dict[str, str | None]:
    """For each address with its link: why it is skipped."""
    return {
        f"{link['interface']} {address['address']}": address["skipped"]
        for link in links
        for address in link["addresses"]
    }


EXCLUDING = f"{QUIET}interfaces:\n  exclude: ['private*']\n"

SKIPPED = {
    "lo 127.0.0.1": "loopback",
    "lo ::1": "loopback",
    "eth0 169.254.7.7": "link-local IPv4",
    "eth0 192.0.2.200": "scope host",
    "eth0 2001:db8::dead": "deprecated",
    "eth1 198.51.100.99": "port of a bridge, bond or team",
    "nocarrier 192.0.2.41": "no carrier",
    "down 192.0.2.42": "down",
    "private0 192.0.2.43": "name in interfaces.exclude",
    "tun0 192.0.2.44": "point-to-point",
    "tap0 192.0.2.45": "no carrier",
    "ifb0 192.0.2.46": "no ARP on this link (NOARP)",
}
NOT_SKIPPED = {
    "eth0 192.0.2.10",
    "eth0 192.0.2.11",
    "eth0 192.0.2.12",
    "eth0 10.9.9.1",
    "eth0 10.9.8.1",
    "eth0 2001:db8::10",
    "eth0 2001:db8::11",
    "br0 198.51.100.1",
    "mv0 192.0.2.31",
    "vxlan0 203.0.113.1",
}


def test_list_tells_everything_with_its_reason(zoo: Zoo, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(EXCLUDING)
    done = command(zoo, "list", "--json", "-c", str(file))
    assert done.returncode == 0
    told = reasons(json.loads(done.stdout))
    assert {name: why for name, why in told.items() if why} == SKIPPED
    assert {name for name, why in told.items() if not why} == NOT_SKIPPED


def test_everything_found_arrives_at_the_peer_and_nothing_else(zoo: Zoo, tmp_path: Path) -> None:
    links = ("eth0", "eth1", "eth3", "eth4", "vxlan0")
    captures = {link: Capture(zoo, "peer", link) for link in links}
    with Agent(zoo, tmp_path, config=EXCLUDING) as agent:
        status = agent.status()
        assert {name for name, why in reasons(status["links"]).items() if not why} == NOT_SKIPPED
        until(lambda: agent.sent() >= len(NOT_SKIPPED), "one frame for each address is sent")
        macs = {link["hardware_address"] for link in status["links"]}
        seen = {
            (address, link)
            for link, capture in captures.items()
            for mac in macs
            for address in NOT_SKIPPED_ADDRESSES | SKIPPED_ADDRESSES
            if capture.announcements(address, mac)
        }
    assert seen == set(ANNOUNCED.items())
    for capture in captures.values():
        capture.socket.close()


NOT_SKIPPED_ADDRESSES = {name.split()[1] for name in NOT_SKIPPED}
SKIPPED_ADDRESSES = {name.split()[1] for name in SKIPPED}


def test_each_frame_has_the_hardware_address_of_its_own_link(zoo: Zoo, tmp_path: Path) -> None:
    with Capture(zoo) as wire, Agent(zoo, tmp_path, config=EXCLUDING) as agent:
        macvlan = (agent.link("mv0") or {})["hardware_address"]
        assert macvlan != (agent.link("eth0") or {})["hardware_address"]
        wire.wait_for("192.0.2.31", macvlan)
        assert wire.announcements("192.0.2.31") == []


SELECTIONS = {
    "interfaces:\n  include: [br*]\n": {"br0 198.51.100.1"},
    "interfaces:\n  include: ['*']\n  exclude: [eth0, vx*, private0]\n": {
        "br0 198.51.100.1",
        "mv0 192.0.2.31",
    },
    "interfaces:\n  include_kinds: [macvlan, vxlan]\n": {
        "mv0 192.0.2.31",
        "vxlan0 203.0.113.1",
    },
    "interfaces:\n  exclude_kinds: [veth, bridge]\n": {"mv0 192.0.2.31", "vxlan0 203.0.113.1"},
    "addresses:\n  include: [10.9.0.0/16]\n": {"eth0 10.9.9.1", "eth0 10.9.8.1"},
    "addresses:\n  ipv4: false\n  deprecated: true\n": {
        "eth0 2001:db8::10",
        "eth0 2001:db8::11",
        "eth0 2001:db8::dead",
    },
    "addresses:\n  ipv6: false\n  exclude: [192.0.2.0/24, 10.0.0.0/8, 203.0.113.1/32]\n": {
        "br0 198.51.100.1"
    },
}


@pytest.mark.parametrize("text", SELECTIONS)
def test_selection(zoo: Zoo, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(QUIET + text)
    done = command(zoo, "list", "--json", "-c", str(file))
    told = reasons(json.loads(done.stdout))
    assert {name for name, why in told.items() if not why} == SELECTIONS[text]


def test_list_needs_no_privilege(zoo: Zoo) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    as_root = command(zoo, "list", "--json")
    done = command(zoo, "list", "--json", prefix=(*nobody, "--inh-caps", "-all"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == as_root.stdout


# A name may hold any bytes but white space, "/", ":" and "%".
STRANGE = [b'a"b', b"e\x1b[31m", b"\xff\xfe", b"{}$(x)", b"[a-z]", "ü".encode()]


@pytest.fixture
def strange_lab(tiny_lab: TinyLab) -> TinyLab:
    for n, name in enumerate(map(os.fsdecode, STRANGE)):
        commands = (
            f"link add dev {name} type veth peer name p{n}",
            f"link set p{n} up",
            f"address add 192.0.2.{100 + n}/24 dev {name}",
            f"link set dev {name} up",
        )
        for each in commands:
            tiny_lab.run("guest", ["ip", *each.split()])
    return tiny_lab


def test_interfaces_that_nobody_should_name_so(strange_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(strange_lab, tmp_path, "-v") as agent:
        for n, name in enumerate(map(os.fsdecode, STRANGE)):
            assert agent.announced(name) == {f"192.0.2.{100 + n}"}
            assert agent.log("address-announced", interface=name)
            entry = agent.addresses(name)[f"192.0.2.{100 + n}"]
            if STRANGE[n] == b"\xff\xfe":  # Python's sockets can't name it
                assert (entry["sent"], entry["dropped"]) == (0, {"EILSEQ": 1})
            else:
                assert (entry["sent"], entry["dropped"]) == (1, {})
        assert agent.addresses("eth0")[GUEST_ADDRESS]["sent"] == 1
        for asked in (["list"], ["status", "--control-socket", str(agent.control)]):
            done = command(strange_lab, *asked, "--json")
            assert done.returncode == 0, done.stderr
            assert "192.0.2.102" in done.stdout


def test_a_name_for_people_to_read_is_fit_to_print(strange_lab: TinyLab, tmp_path: Path) -> None:
    as_strict_as_most = ("env", "PYTHONIOENCODING=utf-8:strict")
    with Agent(strange_lab, tmp_path) as agent:
        control = ["--control-socket", str(agent.control)]
        for asked in (["list"], ["status", *control], ["status", "--prometheus", *control]):
            done = command(strange_lab, *asked, prefix=as_strict_as_most)
            assert done.returncode == 0, done.stderr
            assert "\x1b" not in done.stdout


# -- IPv6 states ----------------------------------------------------------------------------


def test_a_tentative_address_is_announced_when_it_is_ours(
    tiny_lab6: TinyLab, tmp_path: Path
) -> None:
    forget_link_local(tiny_lab6)
    with Capture(tiny_lab6) as wire, Agent(tiny_lab6, tmp_path) as agent:
        wire.wait_for(GUEST_ADDRESS6)
        # Long enough for what is looked at below, and then over.
        tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.eth0.dad_transmits=2"])
        tiny_lab6.ip("guest", "address add 2001:db8::77/64 dev eth0")
        until(lambda: "2001:db8::77" in agent.addresses(), "the address is known")
        assert agent.addresses()["2001:db8::77"]["skipped"] == "tentative"
        agent.burst()
        wire.wait_for("2001:db8::77")
        # Whatever the burst sent of it came later than the end of DAD.
        shown = tiny_lab6.run("guest", ["ip", "-json", "address", "show", "tentative"]).stdout
        assert "2001:db8::77" not in shown
        assert agent.addresses()["2001:db8::77"]["last_cause"] == "address-added"


def test_a_duplicate_is_never_announced(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    forget_link_local(tiny_lab6)
    tiny_lab6.ip("peer", "address add 2001:db8::66/64 dev eth0 nodad")
    with Capture(tiny_lab6) as wire, Agent(tiny_lab6, tmp_path) as agent:
        tiny_lab6.ip("guest", "address add 2001:db8::66/64 dev eth0")
        why = "duplicate address detection failed"

        def failed() -> bool:
            agent.burst()
            return agent.addresses().get("2001:db8::66", {}).get("skipped") == why

        until(failed, "the duplicate is seen")
        agent.burst()
        wire.wait_for(GUEST_ADDRESS)
        assert wire.announcements("2001:db8::66") == []


def test_an_address_that_becomes_deprecated_is_left_alone(
    tiny_lab6: TinyLab, tmp_path: Path
) -> None:
    forget_link_local(tiny_lab6)
    with Capture(tiny_lab6) as wire, Agent(tiny_lab6, tmp_path) as agent:
        tiny_lab6.ip("guest", "address change 2001:db8::10/64 dev eth0 preferred_lft 0")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "it is skipped")
        wire.clear()
        assert agent.burst() == 1
        assert wire.announcements(GUEST_ADDRESS6) == []
        tiny_lab6.ip("guest", "address change 2001:db8::10/64 dev eth0 preferred_lft forever")
        wire.wait_for(GUEST_ADDRESS6)


def test_a_link_that_is_held_dormant_is_not_ready(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """As with 802.1X: there is a carrier, and the switch lets nothing pass yet."""
    tiny_lab.ip("guest", "link add mv0 link eth0 type macvlan mode bridge")
    tiny_lab.ip("guest", "link set mv0 up", "address add 192.0.2.31/24 dev mv0")
    with Agent(tiny_lab, tmp_path) as agent:
        until(lambda: agent.announced("mv0"), "the macvlan is announced")
        tiny_lab.ip("guest", "link set eth0 state dormant")
        until(lambda: agent.announced("mv0") == set(), "the macvlan is dormant")
        assert agent.addresses("mv0")["192.0.2.31"]["skipped"] == "dormant"
        assert agent.announced("eth0") == set()
        assert agent.addresses("eth0")[GUEST_ADDRESS]["skipped"] == "dormant"
