"""The cards of libvirt's guests, from status files as libvirt 9 writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from garp_agent.hypervisor.io.libvirt_cards import LibvirtCard, LibvirtCards
from tests.world import mac

STATUS = """<!-- WARNING: THIS IS AN AUTO-GENERATED FILE. -->
<domstatus state='running' reason='booted' pid='4242'>
  <domain type='qemu' id='1'>
    <name>web</name>
    <devices>
      <interface type='bridge'>
        <mac address='52:54:00:AB:00:01'/>
        <source bridge='br0'/>
        <target dev='{port}'/>
        <model type='virtio'/>
      </interface>
      <interface type='direct' trustGuestRxFilters='yes'>
        <mac address='52:54:00:ab:00:02'/>
        <source dev='bond0' mode='bridge'/>
        <target dev='macvtap0'/>
      </interface>
      <interface type='hostdev'>
        <mac address='52:54:00:ab:00:03'/>
      </interface>
      <interface type='bridge'>
        <mac address='52:54:0:ab:00:03'/>
        <target dev='vnet9'/>
      </interface>
    </devices>
  </domain>
</domstatus>
"""
MACVTAP = LibvirtCard("web", "macvtap0", mac("52:54:00:ab:00:02"))


def card(port: str) -> LibvirtCard:
    return LibvirtCard("web", port, mac("52:54:00:ab:00:01"))


def test_cards_have_guest_port_and_mac(tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(STATUS.format(port="vnet0"))
    (tmp_path / "web.pid").write_text("4242")
    (tmp_path / "broken.xml").write_bytes(b"<interface type=\xff<mac address='")
    (tmp_path / "folder.xml").mkdir()
    os.mkfifo(tmp_path / "pipe.xml")
    assert LibvirtCards(str(tmp_path)).read() == [card("vnet0"), MACVTAP]


def test_card_of_a_guest_that_changes_or_ends_is_read_again(tmp_path: Path) -> None:
    cards = LibvirtCards(str(tmp_path))
    assert cards.read() == []
    path = tmp_path / "web.xml"
    path.write_text(STATUS.format(port="vnet0"))
    assert cards.read()[0] == card("vnet0")
    new = tmp_path / "web.xml.new"  # libvirt writes a file anew and renames it
    new.write_text(STATUS.format(port="vnet7"))
    new.rename(path)
    assert cards.read()[0] == card("vnet7")
    path.unlink()
    assert cards.read() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_file_that_cannot_be_read_yet_is_tried_again() -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        cards, path = LibvirtCards(top), Path(top, "web.xml")
        path.write_text(STATUS.format(port="vnet0"))
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            assert cards.read() == []
            os.seteuid(0)
            path.chmod(0o644)  # the time of its last change stays
            os.seteuid(65534)
            assert cards.read()[0] == card("vnet0")
        finally:
            os.seteuid(0)


def test_file_that_is_gone_when_it_is_looked_at_hides_no_other(tmp_path: Path) -> None:
    for n in range(9):
        (tmp_path / f"web{n}.xml").write_text(STATUS.format(port=f"vnet{n}"))
        (tmp_path / f"gone{n}.xml").symlink_to("none")
    found = {card.guest for card in LibvirtCards(str(tmp_path)).read()}
    assert found == {f"web{n}" for n in range(9)}


def test_directory_that_is_not_there_has_no_cards(tmp_path: Path) -> None:
    assert LibvirtCards(str(tmp_path / "none")).read() == []
    assert LibvirtCards("").read() == []
