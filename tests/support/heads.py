"""Servers in the place of a Ray cluster's head."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

GRPC = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes((0, 3, 0, 0, 0, 100))  # the first frame of a server: its settings


@contextlib.contextmanager
def head(answer: bytes | None, on_connection: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Address of a server that answers so.

    With None it keeps silent, with no bytes it hangs up.
    """
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed with the test
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    on_connection()
                    if answer is not None:
                        connection.recv(100)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()
