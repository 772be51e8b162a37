"""Client that speaks ZMTP 3.0 over a plain socket.

It sends what no ZeroMQ library would send.
"""

from __future__ import annotations

import contextlib
import socket
import struct


def greeting(mechanism: bytes = b"NULL") -> bytes:
    """The first 64 bytes of a client."""
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


GREETING = greeting()


def dial(endpoint: str) -> socket.socket:
    """A bare connection to `tcp://host:port` or `ipc:///path`."""
    kind, place = endpoint.split("://")
    if kind == "ipc":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place)
        return connection
    host, port = place.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=60)


def frame(data: bytes, more: bool = False, command: bool = False) -> bytes:
    """One frame on the wire."""
    flags = more | (4 if command else 0)
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | 2]) + len(data).to_bytes(8, "big") + data


def message(*parts: bytes) -> bytes:
    """A message of frames on the wire."""
    return b"".join(frame(part, more=part_number < len(parts)) for part_number, part in enumerate(parts, 1))


PING = frame(b"\x04PING\0\0", command=True)


def shake_hands(connection: socket.socket, login: tuple[str, str] | None = None) -> None:
    """Greet as a DEALER, with a user and a password or without security.

    Raises ConnectionError where refused.
    """
    connection.sendall(GREETING if login is None else greeting(b"PLAIN"))
    _read(connection, len(GREETING))
    kind, name = b"DEALER", b"Socket-Type"
    about = bytes([len(name)]) + name + len(kind).to_bytes(4, "big") + kind
    if login is not None:
        words = b"".join(bytes([len(word)]) + word.encode() for word in login)
        connection.sendall(frame(b"\x05HELLO" + words, command=True))
        _read_command(connection, b"\x07WELCOME")
    connection.sendall(frame((b"\x08INITIATE" if login else b"\x05READY") + about, command=True))
    _read_command(connection, b"\x05READY")


def answer_hands(connection: socket.socket) -> None:
    """The same from the other side: answer a DEALER without security as a ROUTER does."""
    connection.sendall(GREETING)
    _read(connection, len(GREETING))
    _read_command(connection, b"\x05READY")
    connection.sendall(frame(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER", command=True))


def open_stranger(endpoint: str, login: tuple[str, str] | None = None) -> socket.socket:
    """A connection that may send messages."""
    connection = dial(endpoint)
    shake_hands(connection, login)
    return connection


def reset(connection: socket.socket) -> None:
    """Close a connection in such a way that the other end sees it broken."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_until_read(connection: socket.socket) -> None:
    """Wait until the other end has taken all bytes, as its heartbeat's answer shows."""
    connection.sendall(frame(b"\x04PING\0\0last", command=True))
    answer = b""
    with contextlib.suppress(TimeoutError):  # the other end reads no more, which is a state to test as well
        connection.settimeout(5.0)
        while b"PONGlast" not in answer:
            answer = answer[-16:] + connection.recv(1 << 16)


def _read_command(connection: socket.socket, begins: bytes) -> None:
    _, size = _read(connection, 2)
    command = _read(connection, size)
    if not command.startswith(begins):
        raise ConnectionError(f"{command!r} instead of {begins!r}")


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed by the other end")
        data += piece
    return data
