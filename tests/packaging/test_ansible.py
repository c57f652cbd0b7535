"""The Ansible roles, run by the real ansible-playbook through SSH against a running Debian."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.container import PATIENCE, Container
from tests.packaging.support import CONTRIB, need, run
from tests.vm.receiver import wait_for

RC_LOCAL = """#!/bin/sh
touch /run/started
while true
do
    arping -q -U -c1 -I eth0 192.0.2.10
    sleep 5
done &
exit 0
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  roles:
    - role: garp_agent
      garp_agent_file: {pyz}
      garp_agent_config: {{interval: 2s}}
    - role: garp_hint
      garp_hint_file: {pyz}
      garp_hint_options: --pace 100
"""
ATTACH = """
- hosts: all
  gather_facts: false
  roles:
    - role: garp_hint
      garp_hint_file: {pyz}
      garp_hint_attach: true
"""
UNITS = ("garp-agent", "garp-hint")
DOMAIN = """
<domain type='qemu'>
  <name>{}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='virtio-serial'/>
  </devices>
</domain>
"""
FIRST_RUN = r"changed=[1-9]\d* .*failed=0"
NEXT_RUN = r"changed=0 .*failed=0"
KEYS = "/root/.ssh/authorized_keys"
CHANNEL = "<target type='virtio' name='org.garp_agent.0'"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    run(need("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


@pytest.fixture
def play(key: Path, tmp_path: Path) -> Callable[[Container, str], str]:
    """Runs the real ansible-playbook with this text through SSH; returns what it prints."""
    playbook = need("ansible-playbook", "ansible-core")
    (tmp_path / "inventory").write_text(
        "guest ansible_host=127.0.0.1 ansible_user=root "
        f"ansible_ssh_private_key_file={key} ansible_python_interpreter=/usr/bin/python3\n"
    )
    environment = {
        "ANSIBLE_ROLES_PATH": str(CONTRIB / "ansible" / "roles"),
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_PIPELINING": "true",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
    }

    def play_text(system: Container, text: str) -> str:
        wait_for(lambda: show(system, "ActiveState", "ssh") == "active", "SSH", PATIENCE)
        (tmp_path / "site.yml").write_text(text)
        command = (playbook, "-i", tmp_path / "inventory", tmp_path / "site.yml")
        return run(*system.network(*command), env=environment)

    return play_text


def show(system: Container, name: str, unit: str) -> str:
    return system.run("systemctl", "show", "--value", "-p", name, unit).strip()


def test_ansible_roles_install_both_programs_remove_the_loop_and_change_nothing_again(
    pyz: Path, key: Path, play: Callable[[Container, str], str], tmp_path: Path
) -> None:
    (tmp_path / "rc.local").write_text(RC_LOCAL)
    (tmp_path / "rc.local").chmod(0o755)
    files = {"/etc/rc.local": tmp_path / "rc.local", KEYS: key.with_suffix(".pub")}
    with Container("ssh", files) as system:
        assert re.search(FIRST_RUN, play(system, PLAYBOOK.format(pyz=pyz)))
        rc_local = system.top / "etc/rc.local"
        assert rc_local.read_text() == "#!/bin/sh\ntouch /run/started\nexit 0\n"
        assert rc_local.stat().st_mode & 0o777 == 0o755
        conf = system.top / "etc/garp-agent/conf.d/50-ansible.yaml"
        assert conf.read_text() == "interval: 2s\n"
        assert [show(system, "ActiveState", unit) for unit in UNITS] == ["active"] * 2
        assert [show(system, "UnitFileState", unit) for unit in UNITS] == ["enabled"] * 2
        status = json.loads(system.run("garp-agent", "status", "--json"))
        assert status["interval"] == 2.0
        assert "192.0.2.10" in json.dumps(status)
        assert "--pace 100" in show(system, "ExecStart", "garp-hint")
        processes = [show(system, "MainPID", unit) for unit in UNITS]
        assert re.search(NEXT_RUN, play(system, PLAYBOOK.format(pyz=pyz)))
        assert processes == [show(system, "MainPID", unit) for unit in UNITS]


def test_ansible_role_gives_guests_of_libvirt_their_channels_once(
    pyz: Path, key: Path, play: Callable[[Container, str], str]
) -> None:
    with Container("hypervisor", {KEYS: key.with_suffix(".pub")}) as system:
        assert re.search(FIRST_RUN, play(system, ATTACH.format(pyz=pyz)))  # no guest yet
        for name in ("on", "off"):
            (system.top / f"root/{name}.xml").write_text(DOMAIN.format(name))
            system.run("virsh", "define", f"/root/{name}.xml")
        system.run("virsh", "start", "--paused", "on")
        assert re.search(r"changed=1 .*failed=0", play(system, ATTACH.format(pyz=pyz)))
        for words in ("off", "on --inactive", "on"):
            assert CHANNEL in system.run("virsh", "dumpxml", *words.split())
        assert re.search(NEXT_RUN, play(system, ATTACH.format(pyz=pyz)))
