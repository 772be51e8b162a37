"""Byte counters of connections, as the system keeps them."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios

_TCP_INFO_BYTES = 232
_RECEIVED_AT = 128  # where Linux's struct tcp_info has tcpi_bytes_received
_SENT_AT = 200  # and tcpi_bytes_sent, since Linux 4.19


def received(end: socket.socket) -> int:
    """Bytes that ZeroMQ has read from a connection; 0 where the system does not say (Unix sockets, macOS)."""
    if end.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return 0
    waiting = array.array("i", [0])
    try:
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        fcntl.ioctl(end, termios.FIONREAD, waiting)
    except OSError:
        return 0
    if len(info) < _RECEIVED_AT + 8:
        return 0
    return int(struct.unpack_from("<Q", info, _RECEIVED_AT)[0]) - waiting[0]


def sent_nothing_after(end: socket.socket, size: int) -> bool:
    """Whether no more than `size` bytes have been sent to the other end; False where the system does not say."""
    if end.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return False
    return len(info) >= _SENT_AT + 8 and int(struct.unpack_from("<Q", info, _SENT_AT)[0]) <= size
