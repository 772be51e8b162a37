"""Second handles of the connections that ZeroMQ's monitors name by file number.

What a monitor says may be old: by the time that it is heard, the number may mean another file, or none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable


def duplicate(number: int) -> socket.socket:
    """A second handle of a socket. Raises OSError where the number means none."""
    copy = os.dup(number)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def accepted(number: int, endpoint: str) -> socket.socket:
    """A second handle of a connection that was accepted at `endpoint`. Raises OSError where the number means none."""
    return _checked(duplicate(number), socket.socket.getsockname, endpoint)


def connected(number: int, endpoint: str) -> socket.socket:
    """A second handle of a connection that was made to `endpoint`. Raises OSError where the number means none."""
    return _checked(duplicate(number), socket.socket.getpeername, endpoint)


def _checked(end: socket.socket, address: Callable[[socket.socket], object], endpoint: str) -> socket.socket:
    with contextlib.suppress(OSError):  # not connected
        if _names(address(end), endpoint):
            return end
    end.close()
    raise OSError(errno.ENOTCONN, f"no connection of {endpoint}")


def _names(address: object, endpoint: str) -> bool:
    """Whether an address is an endpoint's: its port or path, since a host has many addresses and names."""
    kind, _, place = endpoint.partition("://")
    if kind == "ipc":
        return address == place
    return isinstance(address, tuple) and str(address[1]) == place.rpartition(":")[2]
