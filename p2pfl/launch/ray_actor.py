"""Actor of one worker on a Ray cluster: its run, its reports and its orders.

Ray starts it in a process of a node. The libraries that compute are imported there only, once their threads are set.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from p2pfl.errors import ConfigError, P2PFLError, is_from_outside, not_imported, one_line
from p2pfl.launch.ray_files import PrivateFolder
from p2pfl.launch.ray_outbox import Answer, Outbox, Place
from p2pfl.node import messages
from p2pfl.node.control import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Control, ReportQueue
from p2pfl.run.identity import read_run_id
from p2pfl.run.mirror import Piece

_PARENT_SECONDS = 0.5  # between two looks at the node's process
_THREADS = (
    "OMP_NUM_THREADS"  # Ray sets it to the actor's CPUs, by which sums would differ from those of other launchers
)


@dataclass(frozen=True)
class Surroundings:
    """Facts about the launcher's process that an actor's has to share.

    `folder`: its current folder. `run_id`: content of the run's id file, by which an actor knows that it sees the same
    run directory. `threads`: OMP_NUM_THREADS there, if set.
    """

    folder: str
    run_id: str
    threads: str | None


class WorkerActor:
    """Worker in a process of a Ray node; its methods are called several at once."""

    def __init__(self, spec: messages.WorkerSpec, surroundings: Surroundings) -> None:
        import ray

        _set_threads(surroundings.threads)
        place = Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid())
        self._control = Control()
        with contextlib.suppress(OSError):  # where it exists, relative paths and modules mean the same here
            os.chdir(surroundings.folder)
        is_shared = spec.run_dir.is_dir() and (read_run_id(spec.run_dir) or "") == surroundings.run_id
        self._folder = None if is_shared else PrivateFolder()
        self._outbox = Outbox(place, self._folder)
        threading.Thread(target=_end_with_node, args=(os.getppid(),), daemon=True).start()
        threading.Thread(target=self._run, args=(spec, place.host), daemon=True).start()

    def obey(self, order: bytes) -> None:
        """Carry out an order."""
        self._control.obey(messages.decode_to_worker(order))

    def put(self, number: int, pieces: list[Piece]) -> None:
        """Take a batch of files of the run directory from the launcher."""
        assert self._folder is not None
        self._folder.put(number, pieces)

    def take(self, number: int, seconds: float) -> Answer:
        """Reports and changed files since the answer before; waits for the first report."""
        return self._outbox.take(number, seconds)

    def _run(self, spec: messages.WorkerSpec, host: str) -> None:
        """Run the worker to its end; whatever happens, there is a last report."""
        outbox = self._outbox
        try:
            if self._folder is not None:
                spec = self._folder.wait(spec)
            outbox.status = _run_worker(spec, outbox.reports, self._control, host)
        except P2PFLError as error:
            outbox.reports(messages.failed(error))
            outbox.status = EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
        except Exception as error:
            outbox.reports(messages.Failed(one_line(error)[:500], resumable=is_from_outside(error)))
        finally:
            outbox.reports.end()


def _run_worker(spec: messages.WorkerSpec, reports: ReportQueue, control: Control, host: str) -> int:
    """Run the worker to its exit status. Raises P2PFLError."""
    try:
        from p2pfl import data
        from p2pfl.node import worker
    except Exception as error:  # such as of a library that is not installed on this node
        raise not_imported(error) from error
    worker.keep_freed_memory()
    if not worker.begin_log(spec, reports):
        return EXIT_FAILED
    chosen = spec.config.data
    dataset = spec.dataset
    if not dataset.exists():  # its folder is the launcher's machine's own
        dataset = data.prepare(chosen.dataset, chosen.data_dir, lambda *_: None, chosen.pictures)
    return worker.run(replace(spec, dataset=dataset, bind=f"tcp://{_bracketed(host)}:*"), reports, control)


def _end_with_node(parent: int) -> None:
    """End this process soon after its node's, whatever it is doing.

    The launcher takes it for lost and may have started the worker elsewhere; Ray itself lets a busy actor continue.
    """
    over = threading.Event()
    while os.getppid() == parent:
        over.wait(_PARENT_SECONDS)
    os._exit(EXIT_INTERRUPTED)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _set_threads(threads: str | None) -> None:
    if threads is None:
        os.environ.pop(_THREADS, None)
    else:
        os.environ[_THREADS] = threads


def surroundings_of(run_dir: Path, environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Surroundings that the actors of a run share with this process.

    Raises UnreadableError.
    """
    return Surroundings(os.getcwd(), read_run_id(run_dir) or "", environment.get(_THREADS))


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process of this node; nothing happens if it has ended."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)
