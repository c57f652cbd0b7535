"""Receives frames in which other machines claim our addresses: filtered AF_PACKET sockets.

Does not decide what follows from a claim.  The kernel's filter drops all frames that do not name
one of our addresses, so that ordinary ARP and neighbour discovery wake no guest (packet(7);
SO_ATTACH_FILTER, socket(7)).

Python reports the link of a frame by its name, and only if that is UTF-8.  While a link has another
name, each protocol has a second socket, of type SOCK_PACKET.  The kernel reports its frames with a
struct sockaddr_pkt, whose family is the hardware type of the link: 1 for Ethernet, as for AF_UNIX.
So Python reads the name as a path, which may hold any bytes (packet_rcv_spkt() in
net/packet/af_packet.c).  It has room for 13 of the 15 bytes of a name.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno
import select

from garp_agent.guest.core.bpf import (
    ALL_ADVERTISEMENTS,
    ALL_ARP,
    MOST_IPV4,
    MOST_IPV6,
    PACKET_OTHERHOST,
    advertisement_filter,
    arp_filter,
)
from garp_agent.guest.core.frames import FrameError, decode
from garp_agent.guest.core.model import AddressProbed, ClaimSeen
from garp_agent.runtime.socket_filter import attach_filter, detach_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

ETH_P_ARP = 0x0806  # <linux/if_ether.h>
ETH_P_IPV6 = 0x86DD
RECEIVE_BUFFER = 1 << 14  # bytes; the kernel drops the rest of a storm of claims
FRAME = 1514  # bytes
_SOCK_PACKET = 10  # <linux/net.h>
_SOCK_TYPE = 0xF  # the type of a socket without its flags, <linux/net.h>
_PROTOCOLS = {4: ETH_P_ARP, 16: ETH_P_IPV6}  # by the length of an address
BATCH = 16  # frames read from one socket in one call


class ConflictSocket:
    """Sockets that receive claims to the addresses of :meth:`listen_for`; at first to none.

    Raises OSError as socket(2) does: PermissionError without CAP_NET_RAW.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._protocols: dict[int, int] = {}  # of each socket
        self._for_bytes: list[int] = []  # sockets for names that are not UTF-8
        self._hears_all: set[int] = set()  # protocols
        for protocol in _PROTOCOLS.values():
            self._open(socket.SOCK_RAW, protocol)
        self.listen_for(())

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def listen_for(self, addresses: Collection[bytes], links: Iterable[str] = ()) -> int:
        """Receive claims to these addresses, and to no others, from now on.

        ``links``: the names of the links that have them.  Return how many addresses are left out:
        a filter has room for MOST_IPV4 and MOST_IPV6 of them, and the kernel may have memory for
        fewer.  Raises OSError as setsockopt(2) does otherwise.
        """
        self._listen_on_bytes(not _is_utf8("".join(links)))
        # Hear all while the filters are made.  This also frees the memory of the old ones.
        for protocol in _PROTOCOLS.values():
            self._hear_all_of(protocol)
        self._hears_all.clear()
        four = [each for each in addresses if len(each) == 4]
        sixteen = [each for each in addresses if len(each) == 16]
        heard = []
        for descriptor, sock in self._sockets.items():
            if self._protocols[descriptor] == ETH_P_ARP:
                heard.append(_attach_most(sock, arp_filter, four[:MOST_IPV4]))
            else:
                heard.append(_attach_most(sock, advertisement_filter, sixteen[:MOST_IPV6]))
        return len(four) + len(sixteen) - heard[0] - heard[1]

    def hear_all(self, link: str, address: bytes) -> None:
        """Receive all claims of this address's family until the next :meth:`listen_for`.

        ``link``: the name of a link whose claims are heard, too; it need not be UTF-8.  The call
        costs the same for any number of addresses.  Without memory in the kernel, the old filters
        stay.  Raises OSError as setsockopt(2) does otherwise.
        """
        if not _is_utf8(link):
            self._listen_on_bytes(True)
        protocol = _PROTOCOLS.get(len(address))
        if protocol is not None:  # no station claims a hardware address alone
            self._hear_all_of(protocol)

    def read(self) -> list[ClaimSeen | AddressProbed]:
        """Return claims and ARP probes that have arrived, at most BATCH for each protocol."""
        heard: list[ClaimSeen | AddressProbed] = []
        for descriptor, _ in self._epoll.poll(0, len(self._sockets)):
            for _ in range(BATCH):
                try:
                    frame, source = self._sockets[descriptor].recvfrom(FRAME)
                    claim = decode(frame)
                except OSError:  # EAGAIN: no more frames; ENETDOWN: a link went down
                    break
                except (FrameError, UnicodeDecodeError):  # malformed; the other socket has it
                    continue
                if descriptor in self._for_bytes:
                    # Of another type than Ethernet it is no text; UTF-8: the other socket has it.
                    if not isinstance(source, str) or _is_utf8(source):
                        continue
                    source = (source,)
                elif source[2] == PACKET_OTHERHOST:  # the filters drop it, too
                    continue
                link, address, station = source[0], claim.address, claim.hardware_address
                if claim.probe:
                    heard.append(AddressProbed(link, address, station))
                elif claim.override:
                    heard.append(ClaimSeen(link, address, station, claim.answers))
        return heard

    def _hear_all_of(self, protocol: int) -> None:
        if protocol not in self._hears_all:
            self._hears_all.add(protocol)
            for descriptor, sock in self._sockets.items():
                if self._protocols[descriptor] == protocol:
                    _hear_all_on(sock, protocol)

    def _open(self, kind: int, protocol: int) -> int:
        kind |= socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sockets[sock.fileno()] = sock
        self._protocols[sock.fileno()] = protocol
        _hear_all_on(sock, protocol)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return sock.fileno()

    def _listen_on_bytes(self, wanted: bool) -> None:
        """Open or close the sockets for links whose names are not UTF-8."""
        if not wanted:
            for descriptor in self._for_bytes:
                self._epoll.unregister(descriptor)
                self._sockets.pop(descriptor).close()
            self._for_bytes.clear()
        elif not self._for_bytes:
            try:
                for protocol in _PROTOCOLS.values():
                    self._for_bytes.append(self._open(_SOCK_PACKET, protocol))
            except OSError:  # no descriptor is left; the next change of addresses tries again
                self._listen_on_bytes(False)

    def close(self) -> None:
        """Close everything."""
        self._epoll.close()
        for sock in self._sockets.values():
            sock.close()


def _hear_all_on(sock: socket.socket, protocol: int) -> None:
    if protocol == ETH_P_ARP and sock.type & _SOCK_TYPE == socket.SOCK_RAW:
        # Detach: the kernel compiles a filter that is attached (30 us), and a frame waits for that.
        # read() drops the frames for other hosts.  SOCK_PACKET does not report their type, and
        # IPv6 without a filter is all traffic.
        detach_filter(sock)
        return
    try:
        attach_filter(sock, ALL_ARP if protocol == ETH_P_ARP else ALL_ADVERTISEMENTS)
    except OSError as error:  # net.core.optmem_max is too low for one more
        if error.errno != errno.ENOMEM:
            raise


def _is_utf8(name: str) -> bool:
    """Return whether a name has no byte that stands in it as a lone surrogate (PEP 383)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _attach_most(
    sock: socket.socket, build: Callable[[list[bytes]], bytes], addresses: list[bytes]
) -> int:
    """Attach a filter for as many addresses as the kernel has memory for; return how many.

    The limit is net.core.optmem_max; its old default of 20 KiB allows about 300 addresses.
    """
    for count in (*_halves(len(addresses)), 0):
        try:
            attach_filter(sock, build(addresses[:count]))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
        else:
            return count
    return 0


def _halves(count: int) -> list[int]:
    return [count >> shift for shift in range(count.bit_length())]
