"""Local launcher: workers as processes of this machine, reporting over pipes."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import shutil
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from p2pfl.errors import ConfigError, not_imported
from p2pfl.faults.injector import fired
from p2pfl.launch.base import LaunchSpec, OnReport, Outcome
from p2pfl.launch.events import StartWorker
from p2pfl.launch.fork_server import ForkedProcess, ForkServer, fork_server
from p2pfl.launch.loop import supervise
from p2pfl.launch.observers import Observer
from p2pfl.launch.prepare import prepare_data
from p2pfl.node import messages
from p2pfl.run.paths import FIRED_FILE
from p2pfl.util.signals import interruptible, shielded


def launch(spec: LaunchSpec, observers: Sequence[Observer]) -> Outcome:
    """Run a launch on this machine to its end. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data or a TMPDIR that has no room. Leaves no process and no socket file behind.
    """
    with interruptible(), fork_server() as server:
        launcher = LocalLauncher(spec, server)
        try:
            return supervise(spec, launcher, observers)
        finally:
            launcher.close()


class LocalWorker:
    """Handle of a worker process and of the link for its reports and orders."""

    def __init__(self, index: int, process: ForkedProcess, link: Connection, fired_file: Path, before: int = 0) -> None:
        """`before`: number of faults that `fired_file` listed when the worker was started."""
        self.index = index
        self._process = process
        self._link: Connection | None = link
        self._fired_file = fired_file
        self._before = before
        self.is_closed = False

    def send(self, order: messages.ToWorker) -> None:
        """Send an order over the link; without a link, SIGTERM stands for Stop."""
        if self._link is None:
            if isinstance(order, messages.Stop):
                self._process.signal(signal.SIGTERM)
        elif self._process.is_alive():
            with contextlib.suppress(OSError):
                self._link.send_bytes(messages.encode(order))

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.signal(number)

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the process."""
        return self._process.join(seconds)

    def has_ended(self) -> bool:
        """Whether the process has ended and its link is read to the end."""
        if self._process.is_alive():
            return False
        try:
            return self._link is None or not self._link.poll()
        except OSError:
            return True

    def new_faults(self) -> list[int]:
        """Numbers of the faults that it recorded as carried out. Raises UnreadableError."""
        return fired(self._fired_file)[self._before :]

    @property
    def exitcode(self) -> int | None:
        """The process's exit status, or minus a signal's number."""
        return self._process.exitcode

    def exit_text(self) -> str:
        """The end of the process, in words."""
        return self._process.exit_text()

    def close(self) -> None:
        """Close the link and the handle of the process."""
        self._end_link()
        self._process.close()
        self.is_closed = True

    # For the launcher

    def sources(self) -> list[Connection | int]:
        """Descriptors that become readable when the worker has reported or ended."""
        link = [] if self._link is None else [self._link]
        return [*link, self._process.sentinel] if self._process.is_alive() else [*link]

    def read(self, report: OnReport) -> None:
        """Pass on a report or a batch; a link that ended, or makes no sense, is closed."""
        if self._link is None:
            return
        try:
            received = messages.receive_reports(self._link)
        except EOFError:
            self._end_link()
            return
        for message in received:
            report(self.index, message)

    def _end_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class LocalLauncher:
    """Starts worker processes from a fork server.

    They listen in a private folder, or where the topology file says.
    """

    def __init__(self, spec: LaunchSpec, server: ForkServer) -> None:
        self._spec = spec
        self._server = server
        self._sockets = server.folder.subfolder()  # mode 0700: closed to other users
        self._dataset = Path()
        self._workers: dict[int, LocalWorker] = {}

    def prepare(self, observer: Observer) -> None:
        """Decode the data set and check the run. Raises ConfigError, P2PFLError."""
        spec = self._spec
        begins = not spec.resume
        self._dataset = prepare_data(spec.config, spec.roles, spec.run_dir, observer, self._server, begins=begins)

    def address(self, worker: int) -> str:
        """Endpoint at which a worker is to listen."""
        if self._spec.binds is not None:
            return self._spec.binds[worker]
        return "tcp://127.0.0.1:*" if self._uses_tcp() else f"ipc://{self._sockets}/{worker}"

    def start(self, order: StartWorker) -> LocalWorker:
        """Start a worker process. Raises P2PFLError where the system has no room for it."""
        spec, index = self._spec, order.worker
        self._ensure_sockets()
        worker_spec = messages.WorkerSpec(
            config=spec.config,
            run_dir=spec.run_dir,
            dataset=self._dataset,
            index=index,
            run=spec.run,
            settings=spec.settings,
            bind=order.bind or self.address(index),
            resume=spec.resume or order.again,
            link_delay=spec.link_delay,
            endpoints=order.endpoints,
            restarted=order.again and order.endpoints is not None,
            returns_in=order.returns_in,
            token=spec.token,
            temporary=self._server.folder.path,
        )
        fired_file = spec.peer_dir(index) / FIRED_FILE
        before = len(fired(fired_file))
        process, link = self._server.start(f"p2pfl-{spec.topology.names[index]}", _run_worker, worker_spec)
        self._workers[index] = LocalWorker(index, process, link, fired_file, before)
        return self._workers[index]

    def watch(self, seconds: float, report: OnReport) -> None:
        """Pass on one report, or a batch, of each worker; wait for the first so long."""
        with contextlib.suppress(ConfigError):  # it matters only to a worker that is started again
            self._ensure_sockets()
        self._workers = {index: worker for index, worker in self._workers.items() if not worker.is_closed}
        by_source = {source: worker for worker in self._workers.values() for source in worker.sources()}
        for ready in multiprocessing.connection.wait(list(by_source), seconds):
            if isinstance(ready, Connection):
                with shielded():  # half a message read is a stream that cannot be read further
                    by_source[ready].read(report)

    def close(self) -> None:
        """Remove the folder of sockets."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _uses_tcp(self) -> bool:
        return self._spec.config.exchange.transport == "tcp"

    def _ensure_sockets(self) -> None:
        """Restore the folder of sockets if TMPDIR was cleaned; peers bind there again.

        Raises ConfigError.
        """
        if self._spec.binds is None and not self._uses_tcp():
            self._server.folder.ensure_subfolder(self._sockets)


def _run_worker(spec: messages.WorkerSpec, link: Connection) -> None:
    """Run a worker in the process that was forked for it."""
    try:
        from p2pfl.node import worker  # not above: it imports torch, which a launcher does not need
    except Exception as error:  # such as of a library for which there is no memory
        link.send_bytes(messages.encode(messages.failed(not_imported(error))))
        sys.exit(1)
    worker.main(spec, link)
