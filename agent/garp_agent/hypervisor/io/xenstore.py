"""What dom0 of a Xen host reads and writes in xenstore: guests' names, channels and cards.

``rewrite_states`` makes the kernels of guests announce their addresses, without agent or channel:
the state of a card's backend is written again with the value that it has, Connected.  xenbus tells
the guest's netfront of each write, and its answer to Connected is netdev_notify_peers().  Read and
write are one transaction, so that a card that is unplugged meanwhile is left alone.

Each call opens the device, waits for xenstored for a limited time, and closes it again.  Elsewhere
than in dom0 there are no guests.

Sources: docs/misc/xenstore-paths.pandoc of Xen; netback_changed() in drivers/net/xen-netfront.c.
"""

from __future__ import annotations

import errno

from garp_agent.hypervisor.core.announce_self import VIF_BACKENDS
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.runtime.xenbus import Xenbus
from garp_agent.wire.record import NamedTuple
from garp_agent.wire.xenbus import (
    COMMIT,
    DEVICE,
    TRANSACTION_END,
    TRANSACTION_START,
    WRITE,
    path_payload,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CONSOLE_BACKENDS = "/local/domain/0/backend/console"
CONNECTED = "4"  # XenbusStateConnected, xen/include/public/io/xenbus.h
ATTEMPTS = 5  # at a transaction: it fails if another one has changed the same node meanwhile


class XenChannel(NamedTuple):
    """A channel of a guest, as xenstore has it."""

    guest: str  # name
    path: str  # of its socket; "": it is a terminal here (connection=pty)


def xen_channels(port_name: str, device: str = DEVICE) -> list[XenChannel] | None:
    """Return the channels with this name.

    None: this is not dom0 of a Xen host, or xenstore cannot be asked.
    """
    found = []
    try:
        with Xenbus(device) as store:
            for domain, guest in _guest_names(store, CONSOLE_BACKENDS).items():
                for number in store.names(f"{CONSOLE_BACKENDS}/{domain}"):
                    folder = f"{CONSOLE_BACKENDS}/{domain}/{number}"
                    if store.read(f"{folder}/name") == port_name:
                        found.append(XenChannel(guest, store.read(f"{folder}/path")))
    except OSError:
        return None
    return found


def xen_cards(device: str = DEVICE) -> list[Channel] | None:
    """Return the folders of the guests' cards, for :func:`rewrite_states`.

    None: this is not dom0 of a Xen host, or xenstore cannot be asked.
    """
    try:
        with Xenbus(device) as store:
            guests = _guest_names(store, VIF_BACKENDS)
    except OSError:
        return None
    return [Channel(guest, f"{VIF_BACKENDS}/{domain}") for domain, guest in guests.items()]


def rewrite_states(folders: Iterable[str], device: str = DEVICE) -> dict[str, int]:
    """Let the guests with these folders announce; return an errno for each, 0 if it was done.

    xenstored is given up at the first request that it does not answer.
    """
    failed = dict.fromkeys(folders, 0)
    number = 0
    try:
        with Xenbus(device) as store:
            for folder in failed:
                if number != errno.ETIMEDOUT:
                    number = _rewrite(store, folder)
                failed[folder] = number
    except OSError as error:  # it cannot be opened
        return dict.fromkeys(failed, error.errno or errno.EIO)
    return failed


def _guest_names(store: Xenbus, backends: str) -> dict[str, str]:
    """Return the names of the guests that have a device of a kind, by the domain's number."""
    domains = store.names(backends)
    names = {domain: store.read(f"/local/domain/{domain}/name") for domain in domains}
    return {domain: name for domain, name in names.items() if name}


def _rewrite(store: Xenbus, folder: str) -> int:
    try:
        for card in store.names(folder):
            _rewrite_state(store, f"{folder}/{card}/state")
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _rewrite_state(store: Xenbus, path: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        transaction = int(store.ask(TRANSACTION_START, b"\0").rstrip(b"\0"))
        if store.read(path, transaction) == CONNECTED:
            store.ask(WRITE, path_payload(path) + CONNECTED.encode(), transaction)
        try:
            store.ask(TRANSACTION_END, COMMIT, transaction)
        except BlockingIOError:  # EAGAIN
            if attempt == ATTEMPTS:
                raise
        else:
            return
