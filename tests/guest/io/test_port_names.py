"""Ports found by name: virtio-serial in sysfs, Xen channels are in tests/vm/test_xen.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from garp_agent.guest.io import port_names as module


def test_port_is_found_by_udevs_link_or_in_sysfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name, sysfs = tmp_path / "xen-channels", tmp_path / "class"
    monkeypatch.setattr(module, "LINKS", ("/does/not/exist/", f"{by_name}/"))
    monkeypatch.setattr(module, "SYSFS", str(sysfs))
    assert module.find("org.garp_agent.0") == ""
    for node, name in (("vport1p1", "org.other"), ("vport1p2", "org.garp_agent.0")):
        (sysfs / node).mkdir(parents=True)
        (sysfs / node / "name").write_text(f"{name}\n")
    (sysfs / "vport2p1").mkdir()  # a console port has no name
    assert module.find("org.garp_agent.0") == "/dev/vport1p2"
    by_name.mkdir()
    (by_name / "org.garp_agent.0").touch()
    assert module.find("org.garp_agent.0") == f"{by_name}/org.garp_agent.0"
    assert module.find("org.garp_agent") == ""
