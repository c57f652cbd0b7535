"""The request for another active port: its bytes.  tests/vm sends it to a real bond."""

from __future__ import annotations

from garp_agent.hypervisor.core.bond_control import activate_port_request
from tests import golden


def test_request_names_the_bond_and_the_port() -> None:
    assert activate_port_request(5, 3, 7) == golden.read("requests/activate-port")
