"""`garp-hint probe` and `garp-hint drill` where there is no bond; tests/vm has a real one."""

from __future__ import annotations

import json
from typing import Any

from bench import lab
from tests.hypervisor.watching import COMMAND, ENVIRONMENT

NOTHING = "garp-hint: there is nothing to probe: no guest is behind a bond with a standby port"


def run(tiny: lab.TinyLab, *arguments: str) -> tuple[int, str, str]:
    options: Any = {"check": False, "env": ENVIRONMENT}
    done = tiny.run("guest", [*COMMAND, *arguments], **options)
    return done.returncode, done.stdout, done.stderr


def test_probe_without_a_bond_has_nothing_to_do(tiny_lab: lab.TinyLab) -> None:
    assert run(tiny_lab, "probe") == (3, "", f"{NOTHING}\n")
    status, out, err = run(tiny_lab, "probe", "--bond", "eth0", "--json", "--dry-run")
    assert (status, err) == (3, f"{NOTHING}\n")
    left_out = {"bond": "eth0", "reason": "there is no such bond", "is_fault": True}
    assert json.loads(out) == {"left_out": [left_out], "targets": []}


def test_drill_without_a_bond_is_refused_with_the_reason(tiny_lab: lab.TinyLab) -> None:
    no_standby = "garp-hint: no bond has a standby port with carrier\n"
    assert run(tiny_lab, "drill", "--yes") == (3, "", no_standby)
    status, out, err = run(tiny_lab, "drill", "--bond", "eth0")
    assert (status, out) == (1, "")
    assert err == f"garp-hint: eth0: there is no such bond\n{no_standby}"
