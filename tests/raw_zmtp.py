"""A stranger that speaks ZMTP 3.0 over a plain socket: what no ZeroMQ library would send."""

from __future__ import annotations

import socket

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def dial(endpoint: str) -> socket.socket:
    """A bare connection to `tcp://host:port` or `ipc:///path`."""
    kind, place = endpoint.split("://")
    if kind == "ipc":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place)
        return connection
    host, port = place.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)


def frame(data: bytes, more: bool = False, command: bool = False) -> bytes:
    """One frame on the wire."""
    flags = more | (4 if command else 0)
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | 2]) + len(data).to_bytes(8, "big") + data


def shake_hands(connection: socket.socket) -> None:
    """Greet as a DEALER without security, and read the other end's greeting and READY."""
    connection.sendall(GREETING)
    _read(connection, len(GREETING))
    kind, name = b"DEALER", b"Socket-Type"
    ready = b"\x05READY" + bytes([len(name)]) + name + len(kind).to_bytes(4, "big") + kind
    connection.sendall(frame(ready, command=True))
    _, size = _read(connection, 2)
    _read(connection, size)


def open_stranger(endpoint: str) -> socket.socket:
    """A connection that may send messages."""
    connection = dial(endpoint)
    shake_hands(connection)
    return connection


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed by the other end")
        data += piece
    return data
