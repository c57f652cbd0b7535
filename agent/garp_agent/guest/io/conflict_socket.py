"""Hears who else claims our addresses: two AF_PACKET sockets behind a filter (packet(7)).

Decides nothing about a claim.  The kernel drops every frame that names none of our
addresses before it would wake us (SO_ATTACH_FILTER, socket(7)).
"""

from __future__ import annotations

import errno
import select
import socket
from array import array
from struct import Struct

from garp_agent.guest.core.filters import advertisement_filter, arp_filter
from garp_agent.guest.core.frames import FrameError, decode
from garp_agent.guest.core.model import ClaimSeen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
ETH_P_ARP = 0x0806  # <linux/if_ether.h>
ETH_P_IPV6 = 0x86DD
RECEIVE_BUFFER = 1 << 14  # bytes: a storm of claims is not worth more
FRAME = 1514  # bytes
BATCH = 16  # frames read before the loop gets its turn again
_PROGRAM = Struct("HP")  # struct sock_fprog


class ConflictSocket:
    """ConflictSocket to the addresses that were named last; raises OSError as socket(2) does."""

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
        """The descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def listen_for(self, addresses: Collection[bytes]) -> None:
        """Hear claims to these addresses, and no others."""
        arp, ipv6 = self._sockets.values()
        _attach_most(arp, arp_filter, [each for each in addresses if len(each) == 4])
        _attach_most(ipv6, advertisement_filter, [each for each in addresses if len(each) == 16])

    def read(self) -> list[ClaimSeen]:
        """The claims that have arrived, a bounded batch of them."""
        claims = []
        for descriptor, _ in self._epoll.poll(0, len(self._sockets)):
            for _ in range(BATCH):
                try:
                    frame, source = self._sockets[descriptor].recvfrom(FRAME)
                    claim = decode(frame)
                except OSError:  # nothing more; or the link went down
                    break
                except (FrameError, UnicodeDecodeError):  # malformed; a link name that is no text
                    continue
                if claim.override and not claim.probe:
                    claims.append(ClaimSeen(source[0], claim.address, claim.hardware_address))
        return claims

    def close(self) -> None:
        """Close everything."""
        self._epoll.close()
        for sock in self._sockets.values():
            sock.close()


def _attach_most(
    sock: socket.socket, build: Callable[[list[bytes]], bytes], addresses: list[bytes]
) -> None:
    """Watch as many as the kernel has memory for (net.core.optmem_max): 300 on older ones."""
    # An empty one first: what the last filter took is free for the new one then.
    for count in (0, *_halves(len(addresses))):
        try:
            _attach(sock, build(addresses[:count]))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
        else:
            if count:
                return


def _halves(count: int) -> list[int]:
    return [count >> shift for shift in range(count.bit_length())]


def _attach(sock: socket.socket, instructions: bytes) -> None:
    memory = array("B", instructions)
    program = _PROGRAM.pack(len(instructions) // 8, memory.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
