"""The guest's name in the path of a socket, in the forms of libvirt and of others."""

from __future__ import annotations

import pytest

from garp_agent.hypervisor.core.channel_names import guest_of, is_channel

PORT = "org.garp_agent.0"


@pytest.mark.parametrize(
    ("path", "guest"),
    [
        ("/run/libvirt/qemu/channel/3-web1/org.garp_agent.0", "web1"),
        ("/run/libvirt/qemu/channel/12-a-b-3/org.garp_agent.0", "a-b-3"),
        ("/var/lib/libvirt/qemu/channel/target/domain-3-web1/org.garp_agent.0", "web1"),
        ("/var/lib/libvirt/qemu/channel/target/domain-3-domain-3/org.garp_agent.0", "domain-3"),
        ("/var/lib/libvirt/qemu/channel/target/domain-web1/org.garp_agent.0", "web1"),
        ("/var/lib/libvirt/qemu/channel/target/web1.org.garp_agent.0", "web1"),
        ("/var/lib/libvirt/libxl/channel/target/web-1-org.garp_agent.0", "web-1"),
        ("/var/lib/libvirt/qemu/org.garp_agent.0.instance-0000002a.sock", "instance-0000002a"),
        ("/srv/vms/web1/org.garp_agent.0", "web1"),
        ("/srv/vms/web-1/org.garp_agent.0", "web-1"),
        ("/srv/vms/3-/org.garp_agent.0", "3-"),
        ("/srv/vms/we\nb1/org.garp_agent.0", "we\nb1"),
        ("/org.garp_agent.0", "/org.garp_agent.0"),
    ],
)
def test_guest_of_a_known_form_is_the_name_in_it(path: str, guest: str) -> None:
    assert is_channel(path, PORT)
    assert guest_of(path, PORT) == guest


@pytest.mark.parametrize(
    "base",
    [
        "org.qemu.guest_agent.0",
        "xorg.garp_agent.0",
        "-org.garp_agent.0",
        ".org.garp_agent.0",
        "org.garp_agent.0.sock",
        "org.garp_agent.0..sock",
        "org.garp_agent.0.a",
        "org.garp_agent.01",
    ],
)
def test_other_file_names_are_no_channels(base: str) -> None:
    assert not is_channel(f"/run/libvirt/qemu/channel/3-web1/{base}", PORT)
