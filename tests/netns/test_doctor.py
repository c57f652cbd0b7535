"""``doctor`` in healthy guests, and in guests with one fault."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from bench.lab import (
    GUEST_ADDRESS,
    GUEST_ADDRESS6,
    GUEST_MAC,
    PEER_ADDRESS,
    PEER_ADDRESS6,
    PEER_MAC,
)
from garp_agent.diagnosis.doctor import gather
from tests.netns.agent import NEW_MAC, QUIET, Agent, Site, advertisement, command, gratuitous, until
from tests.netns.test_rivals import most_in_a_second, timestamped

NO_DAC = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
NO_RAW = ("setpriv", "--bounding-set", "-net_raw")


class Diagnosis:
    """The findings of one run of doctor."""

    def __init__(self, agent: Agent, *options: str, prefix: tuple[str, ...] = ()) -> None:
        files = ("--control-socket", str(agent.control), "-c", str(agent.config))
        self.done = command(agent.lab, "doctor", "--json", *files, *options, prefix=prefix)
        self.findings: list[dict[str, Any]] = json.loads(self.done.stdout)["findings"]

    def of(self, check: str) -> list[dict[str, Any]]:
        return [each for each in self.findings if each["check"] == check]

    def failed(self) -> set[str]:
        return {each["check"] for each in self.findings if each["level"] == "fail"}


@pytest.fixture
def agent(site6: Site) -> Iterator[Agent]:
    with site6.start() as running:
        yield running


def test_doctor_in_a_healthy_guest_finds_nothing_wrong(site6: Site, agent: Agent) -> None:
    site6.guest(
        "address add 192.0.2.11/24 dev eth0 label eth0:1",
        "address add 10.9.9.1 peer 10.9.9.2/32 dev eth0",
        "address add 169.254.7.7/16 dev eth0",
    )
    with site6.lab.entered("guest"):
        masks = gather.look_at_interfaces()["eth0"].addresses
    assert (masks[GUEST_ADDRESS], masks["10.9.9.1"]) == ("255.255.255.0", "255.255.255.255")
    before = agent.sent_by("operator")
    diagnosis = Diagnosis(agent)
    assert {each["level"] for each in diagnosis.findings} == {"ok"}, diagnosis.findings
    assert diagnosis.done.returncode == 0
    (wire,) = diagnosis.of("wire eth0")
    assert wire["found"].startswith("4 of 4 seen as promised: ")
    assert agent.sent_by("operator") == before + 4
    skipped = [each["found"] for each in diagnosis.of("addresses eth0")][1:]
    assert skipped == ["skipped (link-local IPv4): 169.254.7.7"]


@pytest.mark.parametrize(
    "selector", ["interfaces: {include: [lo]}", "addresses: {include: [10.99.0.0/16]}"]
)
def test_configuration_that_leaves_out_every_address_is_a_warning(
    site: Site, selector: str
) -> None:
    with site.start(config=f"{QUIET}{selector}\n") as agent:
        (finding,) = Diagnosis(agent, "--no-send").of("addresses")
    assert finding["level"] == "warn"
    assert f"the configuration leaves out {GUEST_ADDRESS}" in finding["found"]


def test_machine_without_an_address_is_not_sent_to_its_configuration(site: Site) -> None:
    site.guest("address flush dev eth0")
    with site.start(config=f"{QUIET}addresses: {{include: [10.99.0.0/16]}}\n") as agent:
        (finding,) = Diagnosis(agent, "--no-send").of("addresses")
    assert finding["level"] == "warn"
    assert "none is suitable" in finding["found"]
    assert "DHCP" in finding["advice"]


def test_wire_on_a_router_with_both_arp_forms_sees_every_frame(site6: Site) -> None:
    site6.sysctl("guest", "net.ipv6.conf.eth0.forwarding=1")
    with site6.start(config=f"{QUIET}arp: both\n") as agent:
        diagnosis = Diagnosis(agent)
    (wire,) = diagnosis.of("wire eth0")
    assert wire["level"] == "ok"
    assert wire["found"].startswith("3 of 3 seen")
    (sysctl,) = diagnosis.of("sysctl eth0")
    assert "carry the router flag" in sysctl["found"]


def test_doctor_that_may_not_send_puts_no_frame_on_the_link(site: Site) -> None:
    # Without IPv6: the kernel sends IPv6 frames of its own.
    with site.start_without_refresh() as agent:
        before = site.lab.sent_frames("guest", "eth0")
        asked, forced = Diagnosis(agent, "--no-send"), Diagnosis(agent, prefix=NO_RAW)
        assert site.lab.sent_frames("guest", "eth0") == before
    needed = "needs root, or CAP_NET_RAW"
    assert asked.done.stderr == ""
    assert forced.done.stderr == f"garp-agent doctor sends nothing: {needed}\n\n"
    for diagnosis, why in ((asked, "--no-send was given"), (forced, needed)):
        assert diagnosis.done.returncode == 0
        for check in ("wire", "claimants"):
            (finding,) = diagnosis.of(check)
            assert finding["found"] == f"not checked: {why}"


def test_control_socket_forbidden_skips_what_needs_the_agent(agent: Agent) -> None:
    agent.control.chmod(0)
    diagnosis = Diagnosis(agent, prefix=NO_DAC)
    said = f"{agent.control}: permission denied; run as root or as its group"
    assert [each["found"] for each in diagnosis.of("daemon")] == [said]
    for check in ("wire", "hint port"):
        assert [each["found"] for each in diagnosis.of(check)] == [f"not checked: {said}"]
    assert diagnosis.done.stderr.startswith("garp-agent doctor sends: questions for other")
    assert [each["level"] for each in diagnosis.of("claimants")] == ["ok"]


def test_agent_not_running_shows_what_would_be_announced(agent: Agent) -> None:
    assert agent.stop() == 0
    diagnosis = Diagnosis(agent)
    assert diagnosis.failed() == {"daemon"}
    assert diagnosis.done.returncode == 1
    assert f"to be announced: {GUEST_ADDRESS}" in diagnosis.of("addresses eth0")[0]["found"]


def test_wire_behind_a_queue_that_drops_fails(site6: Site, agent: Agent) -> None:
    site6.lab.run("guest", ["tc", "qdisc", "add", "dev", "eth0", "root", "blackhole"])
    diagnosis = Diagnosis(agent)
    wire = diagnosis.of("wire eth0")
    assert [each["level"] for each in wire] == ["fail", "fail"]
    assert wire[0]["found"].startswith(f"arp-request of {GUEST_ADDRESS} was not seen on the link")
    assert "tc -s qdisc" in wire[0]["advice"]
    # The kernel accepts frames that this queue drops: only the capture shows it.
    assert [each["level"] for each in diagnosis.of("losses")] == ["ok"]
    assert diagnosis.failed() == {"wire eth0"}


def test_claimants_another_station_with_our_addresses_fails(site6: Site, agent: Agent) -> None:
    site6.lab.ip(
        "peer",
        f"address add {GUEST_ADDRESS}/24 dev eth0",
        f"address add {GUEST_ADDRESS6}/64 dev eth0 nodad",
    )
    diagnosis = Diagnosis(agent)
    assert [each["found"] for each in diagnosis.of("claimants eth0")] == [
        f"{PEER_MAC} has {GUEST_ADDRESS} too",
        f"{PEER_MAC} has {GUEST_ADDRESS6} too",
    ]
    assert diagnosis.failed() == {"claimants eth0", "conflicts"}
    assert diagnosis.done.returncode == 1


# -- sysctls of one interface and of `all`: the kernel's behaviour is the oracle --------


def sysctl_seen(site6: Site, key: str) -> int:
    with site6.lab.entered("guest"):
        return gather.look_at_interfaces()["eth0"].sysctls[key]


@pytest.mark.parametrize("scope", ["all", "eth0"])
@pytest.mark.parametrize("key", ["arp_filter", "arp_ignore"])
def test_sysctl_filter_counts_on_the_interface_and_on_all(
    site6: Site, key: str, scope: str
) -> None:
    assert sysctl_seen(site6, f"ipv4/{key}") == 0
    site6.sysctl("guest", f"net.ipv4.conf.{scope}.{key}=1")
    assert sysctl_seen(site6, f"ipv4/{key}") == 1


@pytest.mark.parametrize("scope", ["all", "eth0"])
@pytest.mark.parametrize(
    ("family", "key", "address"),
    [("ipv4", "arp_notify", GUEST_ADDRESS), ("ipv6", "ndisc_notify", GUEST_ADDRESS6)],
)
def test_sysctl_notify_is_read_as_the_kernel_uses_it(
    site6: Site, family: str, key: str, address: str, scope: str
) -> None:
    assert sysctl_seen(site6, f"{family}/{key}") == 0
    site6.sysctl("guest", f"net.{family}.conf.{scope}.{key}=1")
    site6.guest(f"link set eth0 address {NEW_MAC}")
    site6.wire.wait_for(address, NEW_MAC)
    assert sysctl_seen(site6, f"{family}/{key}") == 1


@pytest.mark.parametrize("scope", ["all", "eth0"])
@pytest.mark.parametrize(
    ("family", "key", "address"),
    [("ipv4", "drop_gratuitous_arp", PEER_ADDRESS), ("ipv6", "drop_unsolicited_na", PEER_ADDRESS6)],
)
def test_sysctl_drop_is_read_as_the_kernel_uses_it(
    site6: Site, family: str, key: str, address: str, scope: str
) -> None:
    site6.sysctl("guest", f"net.{family}.conf.{scope}.{key}=1")
    site6.guest(f"neigh replace {address} lladdr {NEW_MAC} dev eth0 nud stale")
    if family == "ipv4":
        announcement = gratuitous(PEER_MAC, address)
    else:
        announcement = advertisement(PEER_MAC, address, address)
    question = Ether(src=PEER_MAC, dst=GUEST_MAC)
    question /= ARP(op=1, hwsrc=PEER_MAC, psrc="192.0.2.78", pdst=GUEST_ADDRESS)
    site6.wire.socket.send(bytes(announcement))
    site6.wire.socket.send(bytes(question))  # its answer comes after the announcement was handled
    until(lambda: any(frame[20:22] == b"\0\2" for frame in site6.wire.read()), "an answer")
    ignored = site6.lab.neighbours("guest")[address].mac == NEW_MAC
    assert sysctl_seen(site6, f"{family}/{key}") == ignored
    # For advertisements only the interface's own value counts.
    assert ignored == (scope == "eth0" or family == "ipv4")


def test_tentative_address_is_no_finding(site6: Site, agent: Agent) -> None:
    # The kernel reports an autoconfigured address only when detection has ended.
    site6.sysctl("guest", "net.ipv6.conf.default.dad_transmits=60")
    site6.guest(
        "link add dev eth5 type veth peer name eth6",
        "link set eth6 addrgenmode none up",
        "link set eth5 up",
    )
    site6.lab.wait_until_up("guest")
    until(lambda: "tentative" in site6.lab.run("guest", ["ip", "address"]).stdout, "it begins")
    diagnosis = Diagnosis(agent, "--no-send")
    assert diagnosis.failed() == set()
    # Detection was under way all the time.
    assert "tentative" in site6.lab.run("guest", ["ip", "address"]).stdout


@pytest.mark.parametrize(
    ("name", "sends", "end"),
    [
        (b"a\x1b[31m", ": one burst", " good"),
        (b"\xff\xfe", ": one burst", " not checked"),
        ("ü".encode(), ": one burst", " good"),
    ],
)
def test_text_fits_80_columns_and_an_odd_interface_name_is_printed_safely(
    site6: Site, agent: Agent, name: bytes, sends: str, end: str
) -> None:
    site6.add_link(os.fsdecode(name), "198.51.100.9")
    done = command(site6.lab, "doctor", "--control-socket", str(agent.control))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith(f"garp-agent doctor sends{sends}")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    daemon ")
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith(end)
    assert "198.51.100.9" in done.stdout
    assert "\x1b" not in done.stdout


# -- the hint port --------------------------------------------------------------------------


def port_finding(site6: Site, port: str, *prefix: str) -> tuple[str, str]:
    with site6.start("--hint-port", port, prefix=prefix) as agent:
        (finding,) = Diagnosis(agent, "--no-send").of("hint port")
    return finding["level"], finding["found"]


def test_hint_port_forbidden_fails_with_mode_and_owner(site6: Site) -> None:
    host, device = os.openpty()
    path = os.ttyname(device)
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o600)
    finding = port_finding(site6, path, *NO_DAC)
    os.close(host)
    os.close(device)
    owner = "uid 65534 gid 65534; the agent is uid 0"
    assert finding == ("fail", f"{path}: Permission denied (crw------- {owner})")


@pytest.mark.parametrize(
    ("busy", "level", "found"),
    [
        (False, "ok", "{path} at {path}, open, host connected; no request yet"),
        (True, "fail", "{path} is held open"),
    ],
)
def test_hint_port_socket_is_connected_or_busy(
    site6: Site, busy: bool, level: str, found: str
) -> None:
    path = str(site6.directory / "port")
    with socket.socket(socket.AF_UNIX) as host, socket.socket(socket.AF_UNIX) as other:
        host.bind(path)
        host.listen(0)
        if busy:
            other.connect(path)
        finding = port_finding(site6, path)
    assert finding[0] == level
    assert finding[1].startswith(found.format(path=path))


# -- rules for ARP: a real server of LVS-DR -----------------------------------------------------

NFT = """\
table arp lvs {{
    set vips {{ type ipv4_addr; elements = {{ 192.0.2.99, {set_element} }} }}
    chain in {{
        type filter hook input priority 0;
        arp daddr ip {rule} drop
        arp daddr ip @vips drop
    }}
}}
"""
VIRTUAL = "192.0.2.100"
WRITE = f"addresses: {{exclude: [{VIRTUAL}/32]}}"
PACKAGES = {
    "nft": "nftables",
    "arptables-legacy": "arptables",
    "arptables-nft": "iptables",
    "ebtables-nft": "iptables",
}


def add_rules(site: Site, tool: str, rule: str, set_element: str = "192.0.2.98") -> None:
    """Drop ARP requests for an address or a block, with one of the tools."""
    program = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not program:
        pytest.skip(f"needs `{tool}` (Debian package {PACKAGES[tool]})")
    if tool == "nft":
        file = site.directory / "rules"
        file.write_text(NFT.format(rule=rule, set_element=set_element))
        site.lab.run("guest", [program, "-f", str(file)])
    else:
        site.lab.run("guest", [program, "-A", "INPUT", "-d", rule, "-j", "DROP"])


@pytest.mark.parametrize(
    ("tool", "rule", "element"),
    [
        ("nft", VIRTUAL, "192.0.2.98"),
        ("nft", "192.0.2.97", VIRTUAL),
        ("nft", "192.0.2.96/28", "192.0.2.98"),
        ("arptables-legacy", VIRTUAL, ""),
        ("arptables-legacy", "192.0.2.96/28", ""),
        ("arptables-nft", VIRTUAL, ""),
    ],
)
def test_arp_rules_for_an_announced_address_are_a_warning_with_the_exclude(
    site6: Site, agent: Agent, tool: str, rule: str, element: str
) -> None:
    site6.guest(f"address add {VIRTUAL}/32 dev eth0")
    until(lambda: VIRTUAL in agent.announced(), "it is announced")
    add_rules(site6, tool, rule, element)
    check = "arp rules arptables" if tool == "arptables-legacy" else "arp rules nftables"
    (finding,) = Diagnosis(agent, "--no-send").of(check)
    assert finding["level"] == "warn"
    assert f"from answering for {VIRTUAL}" in finding["found"]
    assert WRITE in finding["advice"]
    # With what doctor advises to write, all is well.
    agent.reload(f"{QUIET}{WRITE}\n")
    until(lambda: VIRTUAL not in agent.announced(), "it is excluded")
    (finding,) = Diagnosis(agent, "--no-send").of(check)
    assert finding["level"] == "ok"


@pytest.mark.parametrize("addresses", [4, 14])
def test_doctor_and_agent_together_send_at_most_14_frames_in_any_second(
    site: Site, addresses: int
) -> None:
    more = range(11, 10 + addresses)
    site.guest(*(f"address add 192.0.2.{host}/24 dev eth0" for host in more))
    with site.start() as agent:

        def is_over() -> bool:
            link = agent.link("eth0")
            return bool(link and link["last_burst"]["over"])

        until(is_over, "the burst of the start is over")
        sock = timestamped(site, "eth0")
        diagnosis = Diagnosis(agent)
    assert most_in_a_second([sock]) <= 14
    sock.close()
    assert [each["level"] for each in diagnosis.of("claimants")] == ["ok"]


def nft(hook: str, *rules: str, policy: str = "accept", before: str = "") -> tuple[str, ...]:
    """Return the commands of nft for a chain of family arp at a hook."""
    chain = f"type filter hook {hook} priority 0; policy {policy};"
    return (
        f"nft 'table arp t {{ {before} chain c {{ {chain} }}; }}'",
        *(f"nft 'add rule arp t c {rule}'" for rule in rules),
    )


MANGLE = f"-A OUTPUT -s {VIRTUAL} -j mangle --mangle-ip-s {GUEST_ADDRESS}"
MANGLE_MAC = f"--h-length 6 -j mangle --mangle-mac-s {NEW_MAC}"
INGRESS = "type filter hook ingress device {} priority 0;"
RULES = {
    "policy drop, own accepted": nft(
        "input", f"arp daddr ip {GUEST_ADDRESS} accept", policy="drop"
    ),
    "not own": nft("input", f"arp daddr ip != {GUEST_ADDRESS} drop"),
    "not in a set": nft("input", f"arp daddr ip != {{ {GUEST_ADDRESS}, 192.0.2.11 }} drop"),
    "range": nft("input", "arp daddr ip 192.0.2.90-192.0.2.110 drop"),
    "not in a range": nft("input", "arp daddr ip != 192.0.2.1-192.0.2.50 drop"),
    "above": nft("input", "arp daddr ip > 192.0.2.50 drop"),
    "interval set": nft("input", "arp daddr ip { 192.0.2.0/29, 192.0.2.96/28 } drop"),
    "verdict map": nft(
        "input", f"arp daddr ip vmap {{ {VIRTUAL} : drop, {GUEST_ADDRESS} : accept }}"
    ),
    "verdict map of intervals": nft("input", "arp daddr ip vmap { 192.0.2.96/28 : drop }"),
    "bytes": nft("input", "@nh,192,32 0xc0000264 drop"),
    "chains": nft(
        "input",
        'iifname "eth0" jump lvs',
        "drop",
        before=f"chain lvs {{ arp operation reply return; arp daddr ip {VIRTUAL} goto quiet; "
        "accept; }; chain quiet { drop; };",
    ),
    "concatenation": nft("input", f'meta iifname . arp daddr ip {{ "eth0" . {VIRTUAL} }} drop'),
    "answer dropped": nft("output", f"arp saddr ip {VIRTUAL} drop"),
    "answer changed": nft("output", f"arp saddr ip {VIRTUAL} arp saddr ip set {GUEST_ADDRESS}"),
    "two chains": (
        *nft("input", f"arp daddr ip {VIRTUAL} accept"),
        "nft 'table arp u { chain c { type filter hook input priority 5; }; }'",
        f"nft 'add rule arp u c arp daddr ip {VIRTUAL} drop'",
    ),
    "ingress": (
        f"nft 'table netdev t {{ chain c {{ {INGRESS.format('eth0')} }}; }}'",
        f"nft 'add rule netdev t c arp daddr ip {VIRTUAL} drop'",
    ),
    "egress": (
        "nft 'table netdev t { chain c { type filter hook egress device eth0 priority 0; }; }'",
        f"nft 'add rule netdev t c arp operation reply arp saddr ip {VIRTUAL} drop'",
    ),
    "arptables-legacy: not own": (f"arptables-legacy -A INPUT ! -d {GUEST_ADDRESS} -j DROP",),
    "arptables-nft: not own": (f"arptables-nft -A INPUT ! -d {GUEST_ADDRESS} -j DROP",),
    "arptables-legacy: policy": (
        f"arptables-legacy -A INPUT -d {GUEST_ADDRESS} -j ACCEPT",
        "arptables-legacy -P INPUT DROP",
    ),
    "arptables-nft: policy": (
        f"arptables-nft -A INPUT -d {GUEST_ADDRESS} -j ACCEPT",
        "arptables-nft -P INPUT DROP",
    ),
    "arptables-legacy: chain": (
        "arptables-legacy -N LVS",
        "arptables-legacy -A LVS --opcode 2 -j RETURN",
        f"arptables-legacy -A LVS -d {VIRTUAL} -j DROP",
        "arptables-legacy -A INPUT -i eth+ -j LVS",
    ),
    "arptables-nft: chain": (
        "arptables-nft -N LVS",
        f"arptables-nft -A LVS -d {VIRTUAL} -j DROP",
        "arptables-nft -A INPUT -i eth0 --h-length 6 -j LVS",
    ),
    "arptables-legacy: mangle": (f"arptables-legacy {MANGLE}",),
    "arptables-nft: mangle": (f"arptables-nft {MANGLE}",),
}
HARMLESS = {
    "accepted": nft("input", f"arp daddr ip {VIRTUAL} accept"),
    "accepted before": nft(
        "input", f"arp daddr ip {VIRTUAL} accept", "arp daddr ip 192.0.2.0/24 accept", policy="drop"
    ),
    "other link": nft("input", f'iifname "eth9" arp daddr ip {VIRTUAL} drop'),
    "answers of others": nft("input", f"arp operation reply arp daddr ip {VIRTUAL} drop"),
    "own questions": nft("output", f"arp operation request arp saddr ip {VIRTUAL} drop"),
    "counted": nft("input", f"arp daddr ip {VIRTUAL} counter log"),
    "dormant": nft("input", f"arp daddr ip {VIRTUAL} drop", before="flags dormant;"),
    "ingress of another link": (
        f"nft 'table netdev t {{ chain c {{ {INGRESS.format('lo')} }}; }}'",
        f"nft 'add rule netdev t c arp daddr ip {VIRTUAL} drop'",
    ),
    "arptables-legacy": (f"arptables-legacy -A INPUT -d {VIRTUAL} -j ACCEPT",),
    "arptables-nft": (f"arptables-nft -A INPUT -d {VIRTUAL} -j ACCEPT",),
    "arptables-legacy: other link": (f"arptables-legacy -A INPUT -i eth9 -d {VIRTUAL} -j DROP",),
}
NOT_EVALUATED = {
    "limit": nft("input", f"arp daddr ip {VIRTUAL} limit rate over 1/second drop"),
    "of one sender": nft("input", f"arp saddr ip 192.0.2.1 arp daddr ip {VIRTUAL} drop"),
    "not of one sender": nft("input", f"arp daddr ip {VIRTUAL} arp saddr ip != 192.0.2.9 drop"),
    "jump": nft(
        "input", f"arp daddr ip {VIRTUAL} limit rate 1/second jump d", before="chain d { drop; };"
    ),
    "another hardware address": (f"arptables-legacy -A OUTPUT -s {VIRTUAL} {MANGLE_MAC}",),
    "arptables-legacy": (f"arptables-legacy -A INPUT -s 192.0.2.9 -d {VIRTUAL} -j DROP",),
    "arptables-nft": (f"arptables-nft -A INPUT -s 192.0.2.9 -d {VIRTUAL} -j DROP",),
}


def add_commands(site: Site, commands: tuple[str, ...]) -> None:
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    for line in commands:
        tool = line.partition(" ")[0]
        if not shutil.which(tool, path=path):
            pytest.skip(f"needs `{tool}` (Debian package {PACKAGES[tool]})")
        site.lab.run("guest", ["sh", "-c", line], env={**os.environ, "PATH": path})


def answered(site: Site, *addresses: str) -> set[str]:
    """Return for which addresses the kernel answers a peer; it answers for the last."""
    site.wire.clear()
    for address in addresses:
        asking = ARP(op=1, hwsrc=PEER_MAC, psrc="192.0.2.1", pdst=address)
        frame = Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / asking
        with site.lab.packet_socket("peer", "eth0") as sending:
            sending.send(bytes(frame))

    def replies() -> list[str]:
        packets = [Ether(frame) for frame in site.wire.read()]
        return [p[ARP].psrc for p in packets if ARP in p and (p[ARP].op, p.src) == (2, GUEST_MAC)]

    until(lambda: replies()[-1:] == [addresses[-1]], "the kernel answers for the last")
    return set(replies()) & set(addresses)


@pytest.fixture
def real_server(site: Site) -> Site:
    site.guest(f"address add {VIRTUAL}/32 dev eth0", "address add 192.0.2.98/32 dev lo")
    return site


def arp_findings(agent: Agent) -> list[Any]:
    return [
        each
        for each in Diagnosis(agent, "--no-send").findings
        if each["check"].startswith("arp rules")
    ]


@pytest.mark.parametrize("commands", RULES.values(), ids=RULES)
def test_virtual_address_that_rules_keep_silent_is_the_one_to_exclude(
    real_server: Site, commands: tuple[str, ...]
) -> None:
    add_commands(real_server, commands)
    assert answered(real_server, VIRTUAL, GUEST_ADDRESS) == {GUEST_ADDRESS}
    with real_server.start(config=QUIET) as agent:
        (finding,) = arp_findings(agent)
    assert finding["level"] == "warn"
    assert f"from answering for {VIRTUAL}" in finding["found"]
    assert WRITE in finding["advice"]


@pytest.mark.parametrize("commands", HARMLESS.values(), ids=HARMLESS)
def test_address_that_rules_accept_is_not_to_be_excluded(
    real_server: Site, commands: tuple[str, ...]
) -> None:
    add_commands(real_server, commands)
    assert answered(real_server, VIRTUAL, GUEST_ADDRESS) == {VIRTUAL, GUEST_ADDRESS}
    with real_server.start(config=QUIET) as agent:
        assert [each for each in arp_findings(agent) if each["level"] != "ok"] == []


@pytest.mark.parametrize("commands", NOT_EVALUATED.values(), ids=NOT_EVALUATED)
def test_address_of_rules_that_doctor_cannot_evaluate_is_named_without_an_exclude(
    real_server: Site, commands: tuple[str, ...]
) -> None:
    add_commands(real_server, commands)
    with real_server.start(config=QUIET) as agent:
        (finding,) = arp_findings(agent)
    assert finding["level"] == "warn"
    assert f"cannot evaluate, for {VIRTUAL}" in finding["found"]
    assert "exclude: [" not in finding["advice"]


def chain(family: str, at: str, rule: str) -> tuple[str, ...]:
    """Return the commands of nft for a chain with one rule, for example at `hook input`."""
    return (
        f"nft 'table {family} t {{ chain c {{ type filter {at} priority 0; }}; }}'",
        f"nft 'add rule {family} t c {rule}'",
    )


ASKED, ANSWERED = f"arp daddr ip {VIRTUAL} drop", f"arp saddr ip {VIRTUAL} drop"
BRIDGE_RULES = {
    "prerouting": chain("bridge", "hook prerouting", f"ether type arp {ASKED}"),
    "input": chain("bridge", "hook input", f'iifname "eth0" {ASKED}'),
    "output": chain("bridge", "hook output", f'oifname "eth0" {ANSWERED}'),
    "postrouting": chain("bridge", "hook postrouting", ANSWERED),
    "ingress of the port": chain("netdev", "hook ingress device eth0", ASKED),
    "ingress of the bridge": chain("netdev", "hook ingress device br0", ASKED),
    "egress of the port": chain("netdev", "hook egress device eth0", ANSWERED),
    "hardware address of the answer": chain(
        "bridge", "hook output", f"ether saddr {GUEST_MAC} {ANSWERED}"
    ),
    "egress of the bridge": chain("netdev", "hook egress device br0", ANSWERED),
    "arp": chain("arp", "hook input", f'iifname "br0" {ASKED}'),
}
BRIDGE_HARMLESS = {
    "forward": chain("bridge", "hook forward", ASKED),
    "other port": chain("bridge", "hook input", f'iifname "eth9" {ASKED}'),
    "accepted": chain("bridge", "hook input", f"arp daddr ip {VIRTUAL} accept"),
    "answers of others": chain("bridge", "hook input", f"arp operation reply {ASKED}"),
    "hardware address of others": chain(
        "netdev", "hook egress device eth0", f"ether saddr {NEW_MAC} {ANSWERED}"
    ),
    "egress": chain("netdev", "hook egress device eth0", f"arp operation request {ANSWERED}"),
    "ebtables-nft": ("ebtables-nft -A INPUT -p IPv4 -j DROP",),
}
BRIDGE_NOT_EVALUATED = {
    "limit": chain("bridge", "hook input", f"limit rate over 1/second {ASKED}"),
    "ebtables-nft": (f"ebtables-nft -A INPUT -p ARP --arp-ip-dst {VIRTUAL} -j DROP",),
}


@pytest.fixture
def bridged(site: Site) -> Site:
    """A real server whose addresses are on a bridge."""
    site.guest(
        "address flush dev eth0",
        f"link add br0 address {GUEST_MAC} type bridge forward_delay 0",
        "link set br0 up",
        "link set eth0 master br0",
        f"address add {GUEST_ADDRESS}/24 dev br0",
        f"address add {VIRTUAL}/32 dev br0",
    )
    return site


@pytest.mark.parametrize("commands", BRIDGE_RULES.values(), ids=BRIDGE_RULES)
def test_virtual_address_of_a_bridge_that_rules_keep_silent_is_the_one_to_exclude(
    bridged: Site, commands: tuple[str, ...]
) -> None:
    add_commands(bridged, commands)
    assert answered(bridged, VIRTUAL, GUEST_ADDRESS) == {GUEST_ADDRESS}
    with bridged.start(config=QUIET) as agent:
        (finding,) = arp_findings(agent)
    assert finding["level"] == "warn"
    assert f"from answering for {VIRTUAL}" in finding["found"]
    assert WRITE in finding["advice"]


@pytest.mark.parametrize("commands", BRIDGE_HARMLESS.values(), ids=BRIDGE_HARMLESS)
def test_address_of_a_bridge_that_rules_accept_is_not_to_be_excluded(
    bridged: Site, commands: tuple[str, ...]
) -> None:
    add_commands(bridged, commands)
    assert answered(bridged, VIRTUAL, GUEST_ADDRESS) == {VIRTUAL, GUEST_ADDRESS}
    with bridged.start(config=QUIET) as agent:
        assert [each for each in arp_findings(agent) if each["level"] != "ok"] == []


@pytest.mark.parametrize("commands", BRIDGE_NOT_EVALUATED.values(), ids=BRIDGE_NOT_EVALUATED)
def test_address_of_a_bridge_with_rules_that_doctor_cannot_evaluate_is_named(
    bridged: Site, commands: tuple[str, ...]
) -> None:
    add_commands(bridged, commands)
    with bridged.start(config=QUIET) as agent:
        (finding,) = arp_findings(agent)
    assert finding["level"] == "warn"
    assert "cannot evaluate" in finding["found"]
    assert VIRTUAL in finding["found"]
    assert "exclude: [" not in finding["advice"]


def test_rules_of_one_port_of_a_bridge_do_not_keep_its_addresses_silent(bridged: Site) -> None:
    bridged.guest("link add tap0 type veth peer tap1", "link set tap0 master br0 up")
    add_commands(bridged, chain("netdev", "hook ingress device tap0", ASKED))
    assert answered(bridged, VIRTUAL, GUEST_ADDRESS) == {VIRTUAL, GUEST_ADDRESS}
    with bridged.start(config=QUIET) as agent:
        assert [each["level"] for each in arp_findings(agent)] == ["ok"]


def test_arp_ignore_of_a_real_server_is_a_warning_with_the_exclude(site: Site) -> None:
    site.sysctl("guest", "net.ipv4.conf.eth0.arp_ignore=8")
    with site.start() as agent:
        (finding,) = Diagnosis(agent, "--no-send").of("sysctl eth0")
    assert finding["level"] == "warn"
    assert f"addresses: {{exclude: [{GUEST_ADDRESS}/32]}}" in finding["advice"]
