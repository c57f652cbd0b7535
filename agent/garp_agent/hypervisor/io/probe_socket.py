"""Sends path probes out of one port of a bond, and receives them on another (packet(7)).

One object owns the sockets of a run: one to send, and one for each port that receives.  Decides
nothing about the probes (hypervisor.core.probe_series).  Needs CAP_NET_RAW.
"""

from __future__ import annotations

import errno
import socket
from struct import Struct

from garp_agent.hypervisor.core.path_probes import decode_probe, probe_filter
from garp_agent.runtime.socket_filter import attach_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.path_probes import ProbeSeen

ETH_P_ALL = 0x0003  # <linux/if_ether.h>
BATCH = 64  # frames read from one socket in one call
RECEIVE_BUFFER = 1 << 20  # bytes asked for; the kernel caps it at net.core.rmem_max
FRAME = 2048  # bytes
_SOL_PACKET = 263  # <linux/socket.h>
_PACKET_ADD_MEMBERSHIP = 1  # <linux/if_packet.h>
_PACKET_AUXDATA = 8
_PACKET_MR_UNICAST = 3
_TP_STATUS_VLAN_VALID = 1 << 4
_TP_STATUS_VLAN_TPID_VALID = 1 << 6
_AUXDATA = Struct("=IIIHHHH")  # struct tpacket_auxdata
_MEMBERSHIP = Struct("=iHH8s")  # struct packet_mreq
_DEFAULT_TAG = 0x8100


class ProbeSender:
    """Puts frames on ports.  Raises PermissionError without CAP_NET_RAW, OSError as socket(2)."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}  # by port
        self._open("").close()  # a missing capability shows here, not at the first frame

    def send(self, port: str, frame: bytes) -> int:
        """Send one whole frame out of a port; return the errno (0: sent)."""
        try:
            sock = self._sockets.get(port)
            # A socket stays bound to its link, which can be gone or have another name now.
            if sock is not None and sock.getsockname()[0] != port:
                self._sockets.pop(port).close()
                sock = None
            if sock is None:
                sock = self._sockets[port] = self._open(port)
            sock.send(frame)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

    @staticmethod
    def _open(port: str) -> socket.socket:
        # Protocol 0: the kernel queues no frame for reading.
        sock = _packet_socket()
        try:
            if port:
                _bind_to_port(sock, port, 0)
        except BaseException:
            sock.close()
            raise
        return sock


class ProbeReceiver:
    """Receives the probes of one run on one port.  Raises OSError as socket(2) and bind(2) do."""

    def __init__(self, port: str, run: bytes, own_address: bytes = b"") -> None:
        """``own_address``: a MAC that the card is to accept too, for probes to the host itself.

        The cards of a bond's other ports are not promiscuous: they drop frames to other MACs.
        """
        self._run = run
        self.lost = 0  # times that reading failed
        self._socket = _packet_socket()
        try:
            # The filter first: the socket receives nothing before bind() gives it a protocol.
            attach_filter(self._socket, probe_filter(run))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            _bind_to_port(self._socket, port, ETH_P_ALL)
            if own_address:
                index = socket.if_nametoindex(port)
                member = _MEMBERSHIP.pack(index, _PACKET_MR_UNICAST, 6, own_address)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._socket.fileno()

    def read(self) -> list[ProbeSeen]:
        """Return the probes that have arrived, at most BATCH."""
        found = []
        for _ in range(BATCH):
            try:
                frame, control, _flags, _sender = self._socket.recvmsg(FRAME, 64)
            except BlockingIOError:
                break
            except OSError:  # ENETDOWN: the port went down
                self.lost += 1
                break
            probe = decode_probe(frame, self._run, _stripped_tag(control))
            if probe is not None:
                found.append(probe)
        return found

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _packet_socket() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_PACKET, kind, 0)


def _bind_to_port(sock: socket.socket, port: str, protocol: int) -> None:
    """Bind a socket to a port.  Raises OSError."""
    try:
        sock.bind((port, protocol))
    except UnicodeError:  # Python binds to UTF-8 names only; the kernel allows any bytes
        raise OSError(errno.EILSEQ, "the name of the port is not UTF-8") from None


def _stripped_tag(control: list[tuple[int, int, bytes]]) -> tuple[int, int] | None:
    """Return the tag that the kernel has taken out of a frame."""
    for level, kind, data in control:
        if (level, kind) != (_SOL_PACKET, _PACKET_AUXDATA) or len(data) < _AUXDATA.size:
            continue
        status, _length, _captured, _mac, _net, tag, protocol = _AUXDATA.unpack_from(data)
        if status & _TP_STATUS_VLAN_VALID:
            return protocol if status & _TP_STATUS_VLAN_TPID_VALID else _DEFAULT_TAG, tag
    return None
