"""Receives frames in which other machines claim our addresses: two filtered AF_PACKET sockets.

Does not decide what follows from a claim.  The kernel's filter drops all frames that do not name
one of our addresses, so that ordinary ARP and neighbour discovery wake no guest (packet(7);
SO_ATTACH_FILTER, socket(7)).
"""

from __future__ import annotations

import errno
import select
import socket

from garp_agent.guest.core.bpf import MOST_IPV4, MOST_IPV6, advertisement_filter, arp_filter
from garp_agent.guest.core.frames import FrameError, decode
from garp_agent.guest.core.model import ClaimSeen
from garp_agent.runtime.socket_filter import attach_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ETH_P_ARP = 0x0806  # <linux/if_ether.h>
ETH_P_IPV6 = 0x86DD
RECEIVE_BUFFER = 1 << 14  # bytes; the kernel drops the rest of a storm of claims
FRAME = 1514  # bytes
BATCH = 16  # frames read from one socket in one call


class ConflictSocket:
    """Sockets that receive claims to the addresses of :meth:`listen_for`; at first to none.

    Raises OSError as socket(2) does: PermissionError without CAP_NET_RAW.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets = {}
        for protocol in (ETH_P_ARP, ETH_P_IPV6):
            sock = socket.socket(
                socket.AF_PACKET,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.htons(protocol),
            )
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.listen_for(())

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def listen_for(self, addresses: Collection[bytes]) -> int:
        """Receive claims to these addresses, and to no others, from now on.

        Return how many are left out: a filter has room for MOST_IPV4 and MOST_IPV6 of them, and
        the kernel may have memory for fewer.  Raises OSError as setsockopt(2) does otherwise.
        """
        arp, ipv6 = self._sockets.values()
        four = [each for each in addresses if len(each) == 4]
        sixteen = [each for each in addresses if len(each) == 16]
        heard = _attach_most(arp, arp_filter, four[:MOST_IPV4])
        heard += _attach_most(ipv6, advertisement_filter, sixteen[:MOST_IPV6])
        return len(four) + len(sixteen) - heard

    def read(self) -> list[ClaimSeen]:
        """Return claims that have arrived, at most BATCH for each protocol."""
        claims = []
        for descriptor, _ in self._epoll.poll(0, len(self._sockets)):
            for _ in range(BATCH):
                try:
                    frame, source = self._sockets[descriptor].recvfrom(FRAME)
                    claim = decode(frame)
                except OSError:  # EAGAIN: no more frames; ENETDOWN: a link went down
                    break
                except (FrameError, UnicodeDecodeError):  # malformed; a link name that is not UTF-8
                    continue
                if claim.override and not claim.probe:
                    claims.append(
                        ClaimSeen(source[0], claim.address, claim.hardware_address, claim.answer)
                    )
        return claims

    def close(self) -> None:
        """Close everything."""
        self._epoll.close()
        for sock in self._sockets.values():
            sock.close()


def _attach_most(
    sock: socket.socket, build: Callable[[list[bytes]], bytes], addresses: list[bytes]
) -> int:
    """Attach a filter for as many addresses as the kernel has memory for; return how many.

    The limit is net.core.optmem_max; its old default of 20 KiB allows about 300 addresses.
    """
    # An empty filter first, which frees the memory of the previous one.
    for count in (0, *_halves(len(addresses))):
        try:
            attach_filter(sock, build(addresses[:count]))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
        else:
            if count:
                return count
    return 0


def _halves(count: int) -> list[int]:
    return [count >> shift for shift in range(count.bit_length())]
