"""The hypervisor's own announcement for guests without agent.

QEMU: the command ``announce-self`` over QMP.  Xen: the states of the guest's cards are written
again (hypervisor.io.xenstore).  Decides which guests are announced and what a monitor of QEMU is
asked; opens no socket.  A reply of QMP has the form of ours.  Its greeting and its events do not,
and are skipped.  QEMU handles commands in order; therefore both are sent together, without waiting
for the greeting.

Which addresses are covered: docs/garp-hint.md.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome
from garp_agent.wire.model import LEVEL_WARNING
from garp_agent.wire.protocol import encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.hypervisor.core.exchange import Result
    from garp_agent.hypervisor.core.failover_record import FailoverRecord
    from garp_agent.hypervisor.core.guests import Channel, Guest
    from garp_agent.wire.notices import Notices

ANNOUNCE_SELF = "announce-self"  # kind of a call, and QEMU's name of the command
REWRITE = "rewrite"  # kind of a call whose path is a folder in xenstore
VIF_BACKENDS = "/local/domain/0/backend/vif"  # in xenstore
# QEMU requires all four; they are its own defaults after a migration, in milliseconds.
SCHEDULE = {"initial": 50, "max": 550, "rounds": 5, "step": 100}


def announce_self() -> Exchange:
    """Return the exchange with one monitor."""
    requests = (("qmp_capabilities", None), (ANNOUNCE_SELF, SCHEDULE))
    return Exchange(
        {name: encode_request(name, values, name, delimited=False) for name, values in requests}
    )


class SelfAnnouncements:
    """The known monitors and Xen guests, and which of them to ask at a failover."""

    def __init__(self, is_enabled: bool, notices: Notices) -> None:
        self.is_enabled = is_enabled
        self._notices = notices
        self._monitors: dict[str, str] = {}  # paths by guest

    def __len__(self) -> int:
        return len(self._monitors)

    def covers(self, name: str) -> bool:
        """Return whether QEMU would be asked to announce a guest that does not answer."""
        return self.is_enabled and name in self._monitors

    def found(self, monitors: Iterable[Channel]) -> None:
        """Take in the monitors that exist now; a Xen guest has its folder in VIF_BACKENDS."""
        self._monitors = {monitor.guest: monitor.path for monitor in monitors}

    def announce_silent(self, record: FailoverRecord, spared: Iterable[Guest]) -> list[Call]:
        """Return the calls for all guests that have a monitor, except for those of ``spared``."""
        names = {guest.channel.guest for guest in spared}
        silent = [name for name in self._monitors if name not in names]
        return [call for name in silent for call in self.announce(record, name)]

    def announce(self, record: FailoverRecord, name: str) -> list[Call]:
        """Return the call for one guest, if it has a monitor: one call in a round."""
        path = self._monitors.get(name)
        if not self.is_enabled or path is None or name in record.announced:
            return []
        record.announced.add(name)
        if path.startswith(VIF_BACKENDS):
            return [Call(path, Exchange({}), REWRITE, record.number)]
        return [Call(path, announce_self(), ANNOUNCE_SELF, record.number)]

    def ended(self, result: Result) -> None:
        """Log a call that failed."""
        if result.outcome is not Outcome.ANSWERED:
            replies = result.call.exchange.replies.values()
            self._notices.say(
                LEVEL_WARNING,
                "monitor-failed",
                path=result.call.path,
                outcome=result.outcome.value,
                reason=next((each.description for each in replies if each.description), None),
            )
