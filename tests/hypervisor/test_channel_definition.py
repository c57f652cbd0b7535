"""The channel as libvirt, QEMU and Proxmox VE want it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

from garp_agent.hypervisor import channel_definition as definition
from garp_agent.hypervisor.io.channels import PORT_NAME

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "garp-hint.md").read_text()
DOMAIN = """<domain type='{}'>
  <name>web1</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>{}</devices>
</domain>"""


@pytest.mark.parametrize(("hypervisor", "target"), [("kvm", "virtio"), ("xen", "xen")])
def test_channel_is_what_the_schema_of_libvirt_allows(
    hypervisor: str, target: str, tmp_path: Path
) -> None:
    before = DOMAIN.format(hypervisor, "")
    channel = definition.channel_xml(before, PORT_NAME)
    assert f'<target type="{target}" name="{PORT_NAME}" />' in channel
    after = DOMAIN.format(hypervisor, channel)
    assert [definition.has_channel(each, PORT_NAME) for each in (before, after)] == [False, True]
    validate = which("virt-xml-validate")
    if not validate:
        pytest.skip("needs `virt-xml-validate` (Debian package libvirt-clients)")
    (tmp_path / "domain.xml").write_text(after)
    subprocess.run([validate, tmp_path / "domain.xml", "domain"], check=True)


def test_channel_is_the_snippet_of_the_page() -> None:
    snippet = (ROOT / "contrib/libvirt/channel.xml").read_text().partition("-->\n")[2]
    written = definition.channel_xml(DOMAIN.format("kvm", ""), PORT_NAME)
    assert written.replace('"', "'").replace(" />", "/>") == snippet.rstrip()


def test_port_with_markup_in_its_name_stays_one_name() -> None:
    name = "a'\"<&>"
    channel = definition.channel_xml(DOMAIN.format("kvm", ""), name)
    assert definition.has_channel(DOMAIN.format("kvm", channel), name)


def test_other_channels_do_not_count() -> None:
    other = definition.channel_xml(DOMAIN.format("kvm", ""), "org.qemu.guest_agent.0")
    assert not definition.has_channel(DOMAIN.format("kvm", other), PORT_NAME)


@pytest.mark.parametrize(
    ("devices", "has"),
    [
        ("", False),
        ("<controller type='usb'/>", False),
        ("<controller type='virtio-serial'/>", True),
    ],
)
def test_controller_of_a_channel_is_virtio_serial(devices: str, has: bool) -> None:
    assert definition.has_controller(DOMAIN.format("kvm", devices)) == has


def test_guest_of_xen_is_defined_anew_with_its_channel() -> None:
    before = DOMAIN.format("xen", "<input type='mouse'/>")
    after = definition.with_channel(before, PORT_NAME)
    assert [definition.has_channel(each, PORT_NAME) for each in (before, after)] == [False, True]
    assert after.replace(definition.channel_xml(before, PORT_NAME), "") == before


def test_lines_for_qemu_and_proxmox_are_those_of_the_page() -> None:
    qemu = definition.qemu_lines("web1", PORT_NAME)
    options = "".join(line for line in qemu.splitlines(keepends=True) if line[0] == "-")
    assert f"```\n{options}```" in PAGE
    assert "garp-hint watch --channel '/run/vms/*.garp'" in qemu
    proxmox = definition.proxmox_line("101", PORT_NAME)
    [line] = [line for line in proxmox.splitlines() if line.startswith("args: ")]
    assert f"```\n{line}\n```" in PAGE
    assert "--channel '/run/qemu-server/*.garp'" in proxmox


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a,b", "a'b", "a\nb"])
def test_name_that_needs_quoting_is_refused(name: str) -> None:
    with pytest.raises(definition.GuestNameError):
        definition.qemu_lines(name, PORT_NAME)
    with pytest.raises(definition.GuestNameError):
        definition.proxmox_line(name, PORT_NAME)
