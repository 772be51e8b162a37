"""Directory service in a thread of the test's process."""

from __future__ import annotations

import threading

from p2pfl.rendezvous.service import Service


class ServiceThread:
    """Run a service until `end`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.where = service.endpoint
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self.service:
            while not self._ended.is_set():
                self.service.turn(0.02)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
