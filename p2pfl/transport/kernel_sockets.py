"""Kernel sockets below ZeroMQ's connections: second handles and byte counters.

ZeroMQ's monitors name a connection by its file number. Such news may be old: by the time that it is read, the number
may mean another file, or none. So a handle is made only of a connection with the expected address.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable

_TCP_INFO_BYTES = 232
_RECEIVED_AT = 128  # offset of tcpi_bytes_received in Linux's struct tcp_info
_SENT_AT = 200  # and of tcpi_bytes_sent, since Linux 4.19


def duplicate_accepted(number: int, endpoint: str) -> socket.socket:
    """Second handle of a connection that was accepted at `endpoint`.

    Raises OSError where the file number means no such connection.
    """
    return _checked(_duplicate(number), socket.socket.getsockname, endpoint)


def duplicate_connected(number: int, endpoint: str) -> socket.socket:
    """Second handle of a connection that was made to `endpoint`.

    Raises OSError where the file number means no such connection.
    """
    return _checked(_duplicate(number), socket.socket.getpeername, endpoint)


def bytes_received(connection: socket.socket) -> int:
    """Bytes that ZeroMQ has read from a connection; 0 on systems that do not tell.

    Those are macOS, and Linux for Unix sockets.
    """
    info = _tcp_info(connection)
    if len(info) < _RECEIVED_AT + 8:
        return 0
    waiting = array.array("i", [0])
    try:
        fcntl.ioctl(connection, termios.FIONREAD, waiting)
    except (OSError, ValueError):  # another thread has just closed it: its number is -1 then
        return 0
    return int(struct.unpack_from("<Q", info, _RECEIVED_AT)[0]) - waiting[0]


def has_sent_at_most(connection: socket.socket, size: int) -> bool:
    """Return whether at most `size` bytes were sent over it; False if unknown."""
    info = _tcp_info(connection)
    return len(info) >= _SENT_AT + 8 and int(struct.unpack_from("<Q", info, _SENT_AT)[0]) <= size


def _tcp_info(connection: socket.socket) -> bytes:
    """Linux's struct tcp_info of a connection; empty where there is none."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return b""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return b""


def _duplicate(number: int) -> socket.socket:
    copy = os.dup(number)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _checked(end: socket.socket, address: Callable[[socket.socket], object], endpoint: str) -> socket.socket:
    with contextlib.suppress(OSError):  # not connected
        if _matches(address(end), endpoint):
            return end
    end.close()
    raise OSError(errno.ENOTCONN, f"no connection of {endpoint}")


def _matches(address: object, endpoint: str) -> bool:
    """Return whether an address has an endpoint's port or path.

    Hosts are not compared, since one has many addresses and names.
    """
    kind, _, place = endpoint.partition("://")
    if kind == "ipc":
        return address == place
    return isinstance(address, tuple) and str(address[1]) == place.rpartition(":")[2]
