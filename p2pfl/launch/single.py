"""Single launcher: one peer in this process, of a swarm over several machines."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from p2pfl.launch.base import OnReport
from p2pfl.launch.events import StartWorker
from p2pfl.launch.observers import Observer
from p2pfl.node import messages
from p2pfl.node.control import EXIT_INTERRUPTED, Control
from p2pfl.node.worker import run
from p2pfl.transport import Transport

MakeTransport = Callable[[str], Transport]


class SingleWorker:
    """Handle of the peer in this process, which runs while its launcher watches."""

    def __init__(self, spec: messages.WorkerSpec, make_transport: MakeTransport | None = None) -> None:
        self._spec = spec
        self._make_transport = make_transport
        self._control = Control()
        self._status: int | None = None

    def send(self, order: messages.ToWorker) -> None:
        """Give the peer an order, from any thread or signal handler."""
        self._control.obey(order)

    def signal(self, number: signal.Signals) -> None:
        """Take SIGTERM for the order to stop; no other signal has a meaning here."""
        if number == signal.SIGTERM:
            self._control.stop()

    def kill(self) -> None:
        """End this process at once."""
        os._exit(EXIT_INTERRUPTED)

    def join(self, seconds: float) -> bool:
        """Whether the peer has ended: it cannot be waited for in the thread that runs it."""
        return self.has_ended()

    def has_ended(self) -> bool:
        """Whether the peer has run and ended."""
        return self._status is not None

    def new_faults(self) -> Sequence[int]:
        """No faults: a fault script needs several processes."""
        return ()

    @property
    def exitcode(self) -> int | None:
        """The status that the peer ended with."""
        return self._status

    def exit_text(self) -> str:
        """The status in words."""
        return f"exit status {self._status}"

    def close(self) -> None:
        """Nothing is held."""

    def run(self, report: OnReport) -> None:
        """Run the peer to its end in the calling thread."""
        self._status = run(
            self._spec, lambda message: report(self._spec.index, message), self._control, self._make_transport
        )


class SingleLauncher:
    """Runs one peer in the calling thread, while it is watched."""

    def __init__(self, spec: messages.WorkerSpec, make_transport: MakeTransport | None = None) -> None:
        """Prepare to run a peer.

        `make_transport`: opens the peer's sockets, if it is not the file that says where its neighbors are.
        """
        self._spec = spec
        self._make_transport = make_transport
        self._worker: SingleWorker | None = None

    def prepare(self, observer: Observer) -> None:
        """Nothing is left to prepare: the worker's specification names the data set."""

    def address(self, worker: int) -> str:
        """Endpoint at which the peer listens."""
        return self._spec.bind

    def start(self, order: StartWorker) -> SingleWorker:
        """Make the peer ready to run; it runs in `watch`."""
        self._worker = SingleWorker(self._spec, self._make_transport)
        return self._worker

    def watch(self, seconds: float, report: OnReport) -> None:
        """Run the peer to its end, however long that takes."""
        if self._worker is not None and not self._worker.has_ended():
            self._worker.run(report)

    def close(self) -> None:
        """Nothing was made for the run."""
