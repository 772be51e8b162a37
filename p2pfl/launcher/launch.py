"""One swarm on this machine, from the first process to the last."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from p2pfl.config import RunConfig
from p2pfl.launcher.observer import Observer
from p2pfl.launcher.prepare import prepare_data
from p2pfl.launcher.server import exit_text, fork_server, start
from p2pfl.topology import Topology, consensus_rounds, neighborhood
from p2pfl.worker import messages

STOP_SECONDS = 5.0  # what workers get to end by themselves when told to
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Launch:
    """What is started: one worker a peer. `binds` and `endpoints` are set where the topology file says them."""

    topology: Topology
    matrix: npt.NDArray[np.float64]
    config: RunConfig
    run_dir: Path
    run: str
    settings: str
    resume: bool = False
    binds: Sequence[str] | None = None


@dataclass
class Outcome:
    """How it ended. `reason` is one line; `lost` are the peers that did not end by themselves."""

    status: Literal["complete", "failed", "usage", "interrupted"] = "complete"
    reason: str = ""
    lost: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class _Worker:
    index: int
    name: str
    process: BaseProcess
    link: Connection | None
    endpoint: str | None = None
    done: bool = False


def launch(plan: Launch, observer: Observer) -> Outcome:
    """Run a swarm to its end: decode the data, start the peers, watch them. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data. Leaves no process and no socket file behind.
    """
    began = time.monotonic()
    outcome = Outcome()
    sockets = Path(tempfile.mkdtemp(prefix="p2pfl-"))  # mode 0700: nobody else can connect
    workers: list[_Worker] = []
    try:
        with _interruptible() as hold, fork_server():
            try:
                dataset = prepare_data(plan.config, plan.topology.n, observer)
                observer.say(f"results in {plan.run_dir}")
                observer.say(f"starting {plan.topology.n} peers")
                for index in range(plan.topology.n):
                    workers.append(_start_worker(plan, index, dataset, sockets))
                _watch(plan, workers, observer, outcome)
            except KeyboardInterrupt:
                outcome.status, outcome.reason = "interrupted", "interrupted"
                observer.say("stopping the peers; everything so far is saved")
            finally:
                hold()  # what follows is short, and must not be cut short
                _end(workers, observer)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    outcome.seconds = time.monotonic() - began
    if outcome.refused:
        observer.warn("messages refused: " + ", ".join(f"{n} ({why})" for why, n in sorted(outcome.refused.items())))
    return outcome


def _run_worker(spec: messages.WorkerSpec, link: Connection) -> None:
    from p2pfl.worker import process  # not above: it imports torch, which a launcher does not need

    process.main(spec, link)


def _start_worker(plan: Launch, index: int, dataset: Path, sockets: Path) -> _Worker:
    if plan.binds is not None:
        bind = plan.binds[index]
    else:
        bind = "tcp://127.0.0.1:*" if plan.config.exchange.transport == "tcp" else f"ipc://{sockets}/{index}"
    spec = messages.WorkerSpec(
        config=plan.config,
        run_dir=plan.run_dir,
        dataset=dataset,
        index=index,
        run=plan.run,
        settings=plan.settings,
        bind=bind,
        resume=plan.resume,
    )
    name = plan.topology.names[index]
    process, link = start(f"p2pfl-{name}", _run_worker, spec)
    return _Worker(index, name, process, link)


def _watch(plan: Launch, workers: list[_Worker], observer: Observer, outcome: Outcome) -> None:
    """Until every peer has ended, or one fails; then the others are ended too."""
    by_link = {worker.link: worker for worker in workers}
    deadline = time.monotonic() + plan.config.exchange.start_timeout
    while any(worker.process.is_alive() or worker.link for worker in workers):
        links = [worker.link for worker in workers if worker.link]
        sentinels = [worker.process.sentinel for worker in workers if worker.process.is_alive()]
        for ready in multiprocessing.connection.wait([*links, *sentinels], LOOK_SECONDS):
            if isinstance(ready, Connection) and by_link[ready].link:
                _read(plan, by_link[ready], workers, observer, outcome)
        for worker in workers:
            ended = not worker.process.is_alive() and worker.link is None
            if ended and not worker.done and worker.process.exitcode != 0 and not outcome.reason:
                outcome.lost.append(worker.name)
                log = plan.run_dir / "peers" / plan.topology.node_path(worker.index) / "log.txt"
                outcome.status, outcome.reason = (
                    "failed",
                    f"peer {worker.name} died ({exit_text(worker.process)}); see {log}",
                )
        if any(worker.endpoint is None for worker in workers) and time.monotonic() > deadline:
            late = ", ".join(worker.name for worker in workers if worker.endpoint is None)
            outcome.status = "failed"
            outcome.reason = f"peer {late} not ready in time (--start-timeout)"
        if outcome.reason:
            return


def _read(plan: Launch, worker: _Worker, workers: list[_Worker], observer: Observer, outcome: Outcome) -> None:
    assert worker.link is not None
    try:
        message = messages.decode_from_worker(worker.link.recv_bytes())
    except (EOFError, OSError):
        worker.link.close()
        worker.link = None
        return
    if isinstance(message, messages.Ready):
        worker.endpoint = message.endpoint
        ready = sum(other.endpoint is not None for other in workers)
        observer.progress("peers ready", ready, len(workers))
        if ready == len(workers):
            observer.expect(message.steps)
            observer.say(_forecast(plan, message))
            _introduce(plan, workers)
    elif isinstance(message, messages.Stepped):
        observer.step(worker.index, message.steps)
    elif isinstance(message, messages.RoundFinished):
        observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
    elif isinstance(message, messages.Warned):
        observer.warn(f"peer {worker.name}: {message.text}")
    elif isinstance(message, messages.Done):
        worker.done = True
        for reason, count in message.refused.items():
            outcome.refused[reason] = outcome.refused.get(reason, 0) + count
    elif isinstance(message, messages.Failed) and not outcome.reason:
        outcome.status = "usage" if message.usage else "failed"
        outcome.reason = f"peer {worker.name}: {message.reason}"
        outcome.lost.append(worker.name)


def _forecast(plan: Launch, ready: messages.Ready) -> str:
    """What the consensus phase will take, said before anything has begun."""
    tolerance = plan.config.gossip.consensus_tolerance
    rounds = consensus_rounds(plan.matrix, tolerance)
    links = sum(len(neighborhood(plan.matrix, peer).outgoing) for peer in range(plan.topology.n))
    training = plan.config.training.rounds
    return (
        f"{training} round{'s' * (training > 1)} of training, then {rounds} of mixing only "
        f"({rounds * links * ready.vector_bytes / 1e6:,.1f} MB), which shrink the peers' disagreement to {tolerance:g}"
    )


def _introduce(plan: Launch, workers: list[_Worker]) -> None:
    """Tell every peer where its own neighbors are, and nobody else."""
    endpoints = {worker.index: worker.endpoint for worker in workers}
    for worker in workers:
        hood = neighborhood(plan.matrix, worker.index)
        mine = {peer: str(endpoints[peer]) for peer in sorted({*hood.incoming, *hood.outgoing})}
        if worker.link is not None:
            with contextlib.suppress(OSError):
                worker.link.send_bytes(messages.encode(messages.Endpoints(mine)))


def _end(workers: list[_Worker], observer: Observer) -> None:
    """No worker outlives this: asked, then terminated, then killed. Reports still under way are read."""
    for worker in workers:
        if worker.link is not None and worker.process.is_alive():
            with contextlib.suppress(OSError):
                worker.link.send_bytes(messages.encode(messages.Stop()))
    deadline = time.monotonic() + STOP_SECONDS
    while any(worker.process.is_alive() for worker in workers) and time.monotonic() < deadline:
        sentinels = [worker.process.sentinel for worker in workers if worker.process.is_alive()]
        links = [worker.link for worker in workers if worker.link]
        multiprocessing.connection.wait([*links, *sentinels], max(deadline - time.monotonic(), 0.0))
        for worker in workers:
            _drain(worker, observer)
    for worker in workers:
        if worker.process.is_alive():
            worker.process.kill()
    for worker in workers:
        worker.process.join()
        _drain(worker, observer)
        if worker.link is not None:
            worker.link.close()


def _drain(worker: _Worker, observer: Observer) -> None:
    try:
        while worker.link is not None and worker.link.poll():
            message = messages.decode_from_worker(worker.link.recv_bytes())
            if isinstance(message, messages.RoundFinished):
                observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
    except (EOFError, OSError):
        assert worker.link is not None
        worker.link.close()
        worker.link = None


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """SIGTERM ends a run as Ctrl-C does, until the given function is called: from then on both are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def hold() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    # SIGINT keeps its handler, and stays ignored where the caller (nohup, say) has it ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield hold
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
