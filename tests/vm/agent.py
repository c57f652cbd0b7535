"""The agent inside a guest: started as an operator would, and asked over its own socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.vm.inside import Inside
from tests.vm.pump import PUMP

CONTROL_SOCKET = "/run/garp-agent/control.sock"
NEVER = "270s"  # the longest refresh interval: what a test sees sent has another cause
FAR = 40.0  # seconds until a refresh that no test of such an agent lives to see


class Effort(NamedTuple):
    """What a process has cost so far."""

    wakeups: int  # times that it went to sleep and was woken
    ticks: int  # of CPU time, 10 ms each


class Agent:
    """``garp-agent run`` in a guest, started when made."""

    def __init__(
        self, machine: Inside, *, interval: str = NEVER, options: Sequence[str] = ()
    ) -> None:
        self.machine = machine
        self._command = [
            *("python3", "-m", "garp_agent", "run", "-v", "--interval", interval),
            *("--control-socket", CONTROL_SOCKET, *options),
        ]
        self._never = interval == NEVER
        self.process = machine.spawn(*self._command)

    def started(self) -> Agent:
        """Itself, once its first bursts are over, those of tentative addresses among them."""
        self.settled()
        return self

    def settled(self) -> dict[str, Any]:
        """The status once no burst is under way, nor an address tentative."""
        return self.wait_until(
            lambda status: status["links"] and not self._pending(status), "the end of its bursts"
        )

    def ready(self) -> Agent:
        """Itself, once its first bursts are over and, with NEVER, no refresh is near.

        The phase of each link's first refresh is drawn at random: it may take another start,
        and with many links too many of them.
        """
        self.started()
        while self._never and self._refresh_is_near():
            self.stop()
            self.process = self.machine.spawn(*self._command)
            self.started()
        return self

    def _refresh_is_near(self) -> bool:
        refreshes = [link["next_refresh"] for link in self.status()["links"]]
        return any(refresh is not None and refresh < FAR for refresh in refreshes)

    def _pending(self, status: dict[str, Any]) -> bool:
        """Whether rounds of a burst are still to come, or an address that will start one."""
        links = [link for link in status["links"] if link["skipped"] is None]
        addresses = [address for link in links for address in link["addresses"]]
        return any(link["last_burst"] and not link["last_burst"]["over"] for link in links) or any(
            address["skipped"] == "tentative" for address in addresses
        )

    def status(self) -> dict[str, Any]:
        """What ``garp-agent status`` reads."""
        source = (
            "from garp_agent import client\n"
            "try: result = client.ask(path, 'status')\n"
            "except client.ClientError as error: result = {'error': str(error)}"
        )
        status: dict[str, Any] = self.machine.python(source, path=CONTROL_SOCKET)
        return status

    def wait_until(self, condition: Any, what: str) -> dict[str, Any]:
        """The status once it satisfies a condition."""

        def satisfied() -> dict[str, Any] | None:
            status = self.status()
            if "error" in status:
                assert self.process.running, f"the agent ended: {self.process.output}"
                return None
            return status if condition(status) else None

        try:
            found = PUMP.wait_for(satisfied, what, step=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status()}\n{self.process.output}") from None
        assert found is not None
        return found

    def wait_for_port(self, state: str) -> dict[str, Any]:
        """The status once the hint port is in that state."""
        return self.wait_until(
            lambda status: status["hint_port"]["state"] == state, f"the hint port {state}"
        )

    def effort(self) -> Effort:
        """What it has cost so far, by the kernel's books."""
        folder = f"/proc/{self.process.pid}"
        fields = self.machine.read(f"{folder}/stat").rpartition(")")[2].split()
        lines = dict(
            line.split(":\t", 1)
            for line in self.machine.read(f"{folder}/status").splitlines()
            if ":\t" in line
        )
        return Effort(int(lines["voluntary_ctxt_switches"]), int(fields[11]) + int(fields[12]))

    def stop(self) -> None:
        """Ends it as an operator would."""
        if self.process.running:
            self.process.signal(15)
            assert self.process.wait() == 0, self.process.output
