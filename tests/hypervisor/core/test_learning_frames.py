"""Learning frames: scapy and QEMU as oracles."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from garp_agent.hypervisor.core.learning_frames import learning_frame
from garp_agent.hypervisor.core.linkstate import VlanTag
from tests import golden
from tests.world import mac

GUEST = "52:54:00:00:00:01"
LAYERS = {0x8100: Dot1Q, 0x88A8: Dot1AD}


@pytest.mark.parametrize("tags", [(), ((0x8100, 7),), ((0x88A8, 50), (0x8100, 4094))])
def test_frame_is_the_reverse_request_that_scapy_makes(tags: tuple[tuple[int, int], ...]) -> None:
    made = Ether(dst="ff:ff:ff:ff:ff:ff", src=GUEST, type=tags[0][0] if tags else 0x8035)
    for number, (protocol, vlan) in enumerate(tags):
        inner = tags[number + 1][0] if number + 1 < len(tags) else 0x8035
        made /= LAYERS[protocol](vlan=vlan, type=inner)
    made /= ARP(op=3, hwsrc=GUEST, hwdst=GUEST, psrc="0.0.0.0", pdst="0.0.0.0")
    padded = bytes(made).ljust(60 + 4 * len(tags), b"\0")
    frame = learning_frame(mac(GUEST), [VlanTag(*tag) for tag in tags])
    assert frame.hex(" ") == padded.hex(" ")


def test_frame_without_tags_is_the_one_that_qemu_sends() -> None:
    recorded = golden.read("frames/rarp")
    assert learning_frame(recorded[6:12], ()) == recorded


def test_frame_for_a_mac_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 5 bytes; must have 6"):
        learning_frame(b"\2\0\0\0\0", ())
