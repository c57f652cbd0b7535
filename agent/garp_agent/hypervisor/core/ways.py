"""The way in which a guest's addresses are announced after a failover: the best that there is.

  agent            it announces its addresses itself, as soon as it gets a hint
  announce-self    QEMU announces the MAC of its card, and the guest's kernel what it knows; on
                   Xen only the guest's kernel does
  learning-frames  this host announces the MACs behind the guest's port
  nothing          and why

A guest whose agent does not answer goes down this ladder in the same failover: QEMU is asked when
the hint has failed, and learning frames are sent for all guests at once.
"""

from __future__ import annotations

AGENT = "agent"
ANNOUNCE = "announce-self"
LEARNING = "learning-frames"
NOTHING = "nothing"
PORT_NOT_KNOWN = "its port is not known"
NO_CHANNEL = "it has no channel"
NO_GUEST = "the guest of this port is not known"
NO_ANSWER = "no agent answers"
NOT_ASKED = "watch has no --learn"  # and no monitor


def way_without_learning(answers: bool, has_monitor: bool, why: str = NO_ANSWER) -> tuple[str, str]:
    """Return the way of a guest, and why there is none, as long as no learning frames are sent.

    ``why``: its agent does not answer.
    """
    if answers:
        return AGENT, ""
    return (ANNOUNCE, "") if has_monitor else (NOTHING, f"{why}, and {NOT_ASKED}")


def way_with_learning(ports: list[str], left_out: dict[str, str]) -> tuple[str, str]:
    """Return the way of a guest that has none without learning frames, and why there is none.

    ``ports``: of the guest.  ``left_out``: by port that gets no frame at all, why.
    """
    if not ports:
        return NOTHING, PORT_NOT_KNOWN
    reasons = [left_out.get(port) for port in ports]
    if None in reasons:
        return LEARNING, ""
    return NOTHING, min(reason for reason in reasons if reason is not None)
