"""The agent in a machine: started as an operator would, and asked over its own socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.vm.machine import Machine
from tests.vm.receiver import HangError, wait_for

CONTROL_SOCKET = "/run/garp-agent/control.sock"
LONGEST_INTERVAL = "270s"  # the longest refresh interval: frames have other causes, as a rule
QUIET = 40.0  # seconds
ASK = """
from garp_agent.runtime import client
try: result = client.ask(path, 'status')
except client.ClientError as error: result = {'error': str(error)}
"""
# From proc(5); ``efforts`` ends with two that are the same, if there are such.
EFFORTS = """
import time
def effort(pid):
    with open(f'/proc/{pid}/status') as file: lines = file.read().splitlines()
    with open(f'/proc/{pid}/stat') as file: fields = file.read().rpartition(')')[2].split()
    (wakeups,) = (line.split()[1] for line in lines if line.startswith('voluntary_ctxt'))
    return int(wakeups), int(fields[11]) + int(fields[12])
efforts = [effort(pid)]
while len(efforts) <= windows and efforts[-1:] != efforts[-2:-1]:
    time.sleep(seconds)
    efforts.append(effort(pid))
result = efforts
"""


class Effort(NamedTuple):
    """What a process has cost so far (proc(5))."""

    wakeups: int  # voluntary context switches: how often it went to sleep
    ticks: int  # CPU time in units of 10 ms


class Agent:
    """``garp-agent run`` in a machine, which starts with the object."""

    def __init__(self, machine: Machine, *options: str, interval: str = LONGEST_INTERVAL) -> None:
        self.machine = machine
        self._command = [
            *("python3", "-m", "garp_agent", "run", "-v", "--interval", interval),
            *("--control-socket", CONTROL_SOCKET),
            *options,
        ]
        self.process = machine.spawn(*self._command)

    def __enter__(self) -> Agent:
        """Wait for the end of the bursts that the agent starts with."""
        try:
            self.wait_until_settled()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_settled(self) -> dict[str, Any]:
        """Return the status once no burst is under way and no address is tentative."""
        return self.wait_until(
            lambda status: status["links"] and not _is_unsettled(status), "the end of its bursts"
        )

    def wait_until_quiet(self) -> None:
        """Wait for the end of its bursts; restart it until the first refresh is QUIET s away.

        The phase of the refresh is random: an agent with one link takes 1.2 starts on average.
        """
        while True:
            (link,) = (each for each in self.wait_until_settled()["links"] if not each["skipped"])
            if link["next_refresh"] > QUIET:
                return
            self.stop()
            self.process = self.machine.spawn(*self._command)

    def status(self) -> dict[str, Any]:
        """What ``garp-agent status`` reads; ``error`` if the agent does not answer."""
        status: dict[str, Any] = self.machine.python(ASK, path=CONTROL_SOCKET)
        return status

    def link(self, interface: str) -> dict[str, Any]:
        """The status of one link."""
        links = self.status()["links"]
        found: dict[str, Any] = next(link for link in links if link["interface"] == interface)
        return found

    def sent(self, cause: str) -> int:
        """How many frames it has sent for this cause."""
        frames: int = self.status()["frames"]["by_cause"].get(cause, 0)
        return frames

    def wait_until(
        self, condition: Callable[[dict[str, Any]], object], what: str
    ) -> dict[str, Any]:
        """Return the status once it satisfies a condition."""

        def satisfied() -> dict[str, Any]:
            status = self.status()
            if "error" in status:
                assert self.process.running, f"the agent ended: {self.process.output}"
                return {}
            return status if condition(status) else {}

        try:
            return wait_for(satisfied, what, step=0.1)
        except HangError as error:
            raise HangError(f"{error}\n{self.status()}\n{self.process.output}") from None

    def wait_for_port(self, state: str) -> dict[str, Any]:
        """Return the status once the hint port is in this state."""
        return self.wait_until(
            lambda status: status["hint_port"]["state"] == state, f"the hint port {state}"
        )

    def effort(self) -> Effort:
        """What the agent has cost so far."""
        return self._efforts(0, 0.0)[-1]

    def assert_idle(self, seconds: float = 1.0) -> None:
        """Find a time in which the agent does not wake up and uses no CPU.

        What a test did before may still wake it, so that not every time will do; but an agent
        that polls in a loop is never idle.  The guest measures, because the ports of a
        virtio-serial device share one interrupt.  Each request at another port wakes the agent
        while the buffer of a reply is not returned: the kernel takes none back while no host is
        connected (will_write_block() in drivers/char/virtio_console.c).
        """
        efforts = self._efforts(20, seconds)
        assert efforts[-1] in efforts[:-1], f"never idle within {seconds} s: {efforts}"

    def _efforts(self, windows: int, seconds: float) -> list[Effort]:
        """What the agent has cost: now, and after times of ``seconds`` until it was idle in one."""
        efforts = self.machine.python(
            EFFORTS, pid=self.process.pid, windows=windows, seconds=seconds
        )
        return [Effort(*each) for each in efforts]

    def stop(self) -> None:
        """End it as an operator would."""
        if self.process.running:
            self.process.signal(15)
            assert self.process.wait() == 0, self.process.output


def _is_unsettled(status: dict[str, Any]) -> bool:
    links = [link for link in status["links"] if link["skipped"] is None]
    addresses = [address for link in links for address in link["addresses"]]
    return any(link["last_burst"] and not link["last_burst"]["over"] for link in links) or any(
        address["skipped"] == "tentative" for address in addresses
    )
