"""Head node of a Ray cluster: whether it answers, before a run and during it.

Ray's own calls wait for a head that is gone for a minute, handle no signal meanwhile, and then end the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from p2pfl.errors import ConfigError

ANSWER_SECONDS = 10.0  # for a cluster's head to answer
LOST_SECONDS = 20.0  # without an answer, after which the head counts as lost: well before Ray ends this process
LOOK_SECONDS = 2.0  # between two attempts to connect during a run
# How every HTTP/2 client, and so one of gRPC, begins: the preface, and a SETTINGS frame without settings. The server
# answers with a SETTINGS frame: three bytes of length, the type, the flags, and the number of the connection's stream.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_BYTES, _SETTINGS = 9, 4


def check_answers(option: str, address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raise ConfigError unless a service like a cluster's head answers at an address.

    `option`: value of --ray-address that stands for it. A signal interrupts the wait.
    """
    if _parsed(address) is None:
        return
    where = "there" if option == address else f"at {address}"
    try:
        with contextlib.closing(_connection(address, seconds)) as connection:
            is_head = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection, seconds)
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ConfigError(f"--ray-address {option}: no cluster answers {where} ({why}); see `ray status`") from None
    if not is_head:
        raise ConfigError(f"--ray-address {option}: what listens {where} is no head of a Ray cluster; see `ray status`")


def answers(address: str, seconds: float) -> bool:
    """Whether a connection to the head opens."""
    try:
        _connection(address, seconds).close()
    except OSError:
        return False
    return True


def is_same(one: str, other: str) -> bool:
    """Whether two addresses HOST:PORT mean the same."""
    try:
        return one.rpartition(":")[2] == other.rpartition(":")[2] and not _ips(one).isdisjoint(_ips(other))
    except OSError:
        return False


def _ips(address: str) -> set[object]:
    """IP addresses of a HOST:PORT; of localhost also that of this machine in Ray."""
    from ray._private.services import resolve_ip_for_localhost

    host = address.rpartition(":")[0].strip("[]")
    return {found[4][0] for one in (host, resolve_ip_for_localhost(host)) for found in socket.getaddrinfo(one, None)}


class HeadWatch:
    """Thread that connects to the head of a cluster now and then. Close it in the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._heard = time.monotonic()
        self._answers = True
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-head", daemon=True)
        self._thread.start()

    @property
    def is_silent(self) -> bool:
        """Whether the last connection has failed: a call of Ray's might wait for long."""
        return not self._answers

    @property
    def is_lost(self) -> bool:
        """Whether it has not answered for `LOST_SECONDS`."""
        return self.is_silent and time.monotonic() > self._heard + LOST_SECONDS

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._answers = answers(self.address, LOOK_SECONDS)
            if self._answers:
                self._heard = time.monotonic()
            self._closed.wait(LOOK_SECONDS)


def _parsed(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None


def _connection(address: str, seconds: float) -> socket.socket:
    """Connection to an address. Raises OSError."""
    place = _parsed(address)
    if place is None:
        raise OSError(f"{address} is not HOST:PORT")
    return socket.create_connection(place, seconds)


def _speaks_grpc(connection: socket.socket, seconds: float) -> bool:
    """Whether the other end answers as a server of gRPC does.

    Raises OSError, such as where nothing comes.
    """
    deadline, received = time.monotonic() + seconds, b""
    connection.sendall(_PREFACE)
    while len(received) < _FRAME_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(_FRAME_BYTES - len(received))
        if not part:
            return False
        received += part
    return received[3] == _SETTINGS and not any(received[5:])
