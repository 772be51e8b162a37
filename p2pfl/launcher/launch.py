"""One run on this machine, from the first process to the last."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import numpy as np

from p2pfl.config import RunConfig
from p2pfl.launcher.observer import Observer
from p2pfl.launcher.prepare import prepare_data
from p2pfl.launcher.server import exit_text, fork_server, start
from p2pfl.launcher.signals import Interrupts, interruptible
from p2pfl.roles import Cast
from p2pfl.topology import Topology
from p2pfl.worker import messages

STOP_SECONDS = 5.0  # what workers get to end by themselves when told to
ALONE_SECONDS = 30.0  # what a coordinator gets that has no clients any more; it notices in about ten
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Launch:
    """What is started: one worker for each of the cast. `binds` are set where the topology file says them."""

    cast: Cast
    config: RunConfig
    run_dir: Path
    run: str
    settings: str
    resume: bool = False
    binds: Sequence[str] | None = None
    link_delay: float = 0.0

    @property
    def topology(self) -> Topology:
        return self.cast.topology


@dataclass
class Outcome:
    """How it ended. `reason` is one line; `lost` are those that died or failed, which a centralized run may survive."""

    status: Literal["complete", "failed", "usage", "interrupted"] = "complete"
    reason: str = ""
    lost: list[str] = field(default_factory=list)
    first_loss: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class _Worker:
    index: int
    name: str
    process: BaseProcess
    link: Connection | None
    endpoint: str | None = None
    done_since: float | None = None

    @property
    def done(self) -> bool:
        return self.done_since is not None


def launch(plan: Launch, observer: Observer) -> Outcome:
    """Run it to its end: decode the data, start the processes, watch them. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data. Leaves no process and no socket file behind.
    """
    began = time.monotonic()
    outcome = Outcome()
    sockets = Path(tempfile.mkdtemp(prefix="p2pfl-"))  # mode 0700: nobody else can connect
    workers: list[_Worker] = []
    try:
        with interruptible() as interrupts, fork_server():
            try:
                dataset = prepare_data(plan.config, plan.cast, observer)
                observer.say(f"results in {plan.run_dir}")
                observer.say(f"starting {plan.topology.n} process{'es' * (plan.topology.n > 1)}")
                for index in range(plan.topology.n):
                    with interrupts.shielded():  # a process that is started is one that gets ended
                        workers.append(_start_worker(plan, index, dataset, sockets))
                _watch(plan, workers, observer, outcome, interrupts)
            except KeyboardInterrupt:
                outcome.status, outcome.reason = "interrupted", "interrupted"
                observer.say("stopping; everything so far is saved")
            finally:
                interrupts.hold()  # what follows is short, and must not be cut short
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
        link_delay=plan.link_delay,
    )
    name = plan.topology.names[index]
    process, link = start(f"p2pfl-{name}", _run_worker, spec)
    return _Worker(index, name, process, link)


def _watch(plan: Launch, workers: list[_Worker], observer: Observer, outcome: Outcome, interrupts: Interrupts) -> None:
    """Until everybody has ended, or the run cannot go on; then the others are ended too."""
    by_link = {worker.link: worker for worker in workers}
    deadline = time.monotonic() + plan.config.exchange.start_timeout
    alone_since: float | None = None
    while any(worker.process.is_alive() or worker.link for worker in workers):
        links = [worker.link for worker in workers if worker.link]
        sentinels = [worker.process.sentinel for worker in workers if worker.process.is_alive()]
        for ready in multiprocessing.connection.wait([*links, *sentinels], LOOK_SECONDS):
            if isinstance(ready, Connection) and by_link[ready].link:
                with interrupts.shielded():
                    _read(plan, by_link[ready], workers, observer, outcome)
        for worker in workers:
            if worker.process.is_alive() or worker.link is not None or worker.done or worker.name in outcome.lost:
                continue
            if worker.process.exitcode != 0:
                log = plan.run_dir / "peers" / plan.topology.node_path(worker.index) / "log.txt"
                reason = f"{_called(plan, worker)} died ({exit_text(worker.process)}); see {log}"
                _lose(plan, worker, workers, reason, observer, outcome)
        if any(worker.endpoint is None for worker in workers) and time.monotonic() > deadline:
            late = ", ".join(_called(plan, worker) for worker in workers if worker.endpoint is None)
            outcome.status, outcome.reason = "failed", f"{late} not ready in time (--start-timeout)"
        alone_since = (alone_since or time.monotonic()) if _is_alone(plan, workers) else None
        if alone_since is not None and time.monotonic() > alone_since + ALONE_SECONDS and not outcome.reason:
            outcome.status, outcome.reason = "failed", "all clients are gone, and the coordinator does not answer"
        if outcome.reason:
            return
        if _is_over(plan, workers):
            outcome.lost += [worker.name for worker in workers if not worker.done and worker.name not in outcome.lost]
            return


def _is_alone(plan: Launch, workers: list[_Worker]) -> bool:
    """Whether there is a coordinator that has not finished, and no client any more."""
    center = plan.cast.coordinator
    if center is None or workers[center].done:
        return False
    return not any(worker.process.is_alive() for worker in workers if worker.index != center)


def _is_over(plan: Launch, workers: list[_Worker]) -> bool:
    """Whether the coordinator has finished and its clients have had time to hear of it; they may hang."""
    if plan.cast.coordinator is None:
        return False
    done_since = workers[plan.cast.coordinator].done_since
    return done_since is not None and time.monotonic() > done_since + STOP_SECONDS


def _lose(
    plan: Launch, worker: _Worker, workers: list[_Worker], reason: str, observer: Observer, outcome: Outcome
) -> None:
    """A worker has died or failed: the end of the run, unless it is a client, which its coordinator can do without."""
    outcome.lost.append(worker.name)
    begun = all(other.endpoint is not None for other in workers)
    if begun and plan.cast.coordinator not in (None, worker.index):
        observer.warn(reason)
        outcome.first_loss = outcome.first_loss or reason
    elif not outcome.reason:
        first = f" (first: {outcome.first_loss})" if outcome.first_loss else ""
        outcome.status, outcome.reason = "failed", reason + first


def _called(plan: Launch, worker: _Worker) -> str:
    if plan.cast.coordinator is None:
        return f"peer {worker.name}"
    return "the coordinator" if worker.index == plan.cast.coordinator else f"client {worker.name}"


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
        observer.progress("processes ready", ready, len(workers))
        if ready == len(workers):
            observer.expect(message.steps)
            observer.say(_forecast(plan, message))
            _introduce(plan, workers)
    elif isinstance(message, messages.Stepped):
        observer.step(worker.index, message.steps)
    elif isinstance(message, messages.RoundFinished):
        observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
    elif isinstance(message, messages.Warned):
        observer.warn(f"{_called(plan, worker)}: {message.text}")
    elif isinstance(message, messages.Done):
        worker.done_since = time.monotonic()
        for reason, count in message.refused.items():
            outcome.refused[reason] = outcome.refused.get(reason, 0) + count
    elif isinstance(message, messages.Failed) and not outcome.reason:
        reason = f"{_called(plan, worker)}: {message.reason}"
        if message.usage:
            outcome.status, outcome.reason = "usage", reason
        _lose(plan, worker, workers, reason, observer, outcome)


def _forecast(plan: Launch, ready: messages.Ready) -> str:
    """What lies ahead, said before anything has begun."""
    rounds, mixing_only = plan.config.training.rounds, plan.cast.consensus_rounds
    training = f"{rounds} round{'s' * (rounds > 1)} of training"
    if plan.cast.coordinator is not None:
        centralized = plan.config.centralized
        return f"{training}, each with {centralized.num_selected} of {centralized.num_clients} clients"
    if not mixing_only:
        return training
    sent = mixing_only * plan.cast.channels * ready.vector_bytes
    return (
        f"{training}, then {mixing_only} of mixing only ({sent / 1e6:,.1f} MB), "
        f"which shrink the peers' disagreement to {plan.config.gossip.consensus_tolerance:g}"
    )


def _introduce(plan: Launch, workers: list[_Worker]) -> None:
    """Tell everybody where its own neighbors are, and nobody else."""
    endpoints = {worker.index: worker.endpoint for worker in workers}
    for worker in workers:
        mine = {peer: str(endpoints[peer]) for peer in sorted(plan.cast.links[worker.index])}
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
