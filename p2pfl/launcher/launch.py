"""One run on this machine, from the first process to the last."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import shutil
import signal
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
from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, Kill, Pause
from p2pfl.launcher.observer import Observer
from p2pfl.launcher.prepare import prepare_data
from p2pfl.launcher.server import exit_text, fork_server, start
from p2pfl.launcher.signals import Interrupts, interruptible
from p2pfl.roles import Cast
from p2pfl.topology import Topology
from p2pfl.worker import messages
from p2pfl.worker.sabotage import fired

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
    script: FaultScript = field(default_factory=FaultScript)

    @property
    def topology(self) -> Topology:
        return self.cast.topology


@dataclass
class Outcome:
    """How it ended. `reason` is one line; `lost` are those that died or failed for good, which a run may survive.

    `restarts`: how often each of those that died was started again.
    """

    status: Literal["complete", "failed", "usage", "interrupted"] = "complete"
    reason: str = ""
    lost: list[str] = field(default_factory=list)
    first_loss: str = ""
    restarts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def fail(self, reason: str, status: Literal["failed", "usage"] = "failed") -> None:
        """End the run; what ended it first is what counts."""
        if not self.reason:
            self.status, self.reason = status, reason


@dataclass
class _Worker:
    index: int
    name: str
    process: BaseProcess
    link: Connection | None
    endpoint: str | None = None
    done_since: float | None = None
    heard: float = 0.0  # when it last reported anything
    failure: str = ""  # why it ended, in its own words
    usage: bool = False
    fired: int = 0  # faults that had been carried out on it before it was started

    @property
    def done(self) -> bool:
        return self.done_since is not None


@dataclass
class _Run:
    """A launch under way. `begun`: everybody was ready, and has been told where its neighbors are."""

    plan: Launch
    observer: Observer
    interrupts: Interrupts
    sockets: Path
    outcome: Outcome
    workers: list[_Worker] = field(default_factory=list)
    dataset: Path = Path()
    begun: bool = False

    def neighbors_of(self, index: int) -> dict[int, str]:
        """Where those neighbors of a worker are that are not gone for good and have not finished."""
        links = sorted(self.plan.cast.links[index])
        here = [self.workers[peer] for peer in links]
        return {w.index: str(w.endpoint) for w in here if not w.done and w.name not in self.outcome.lost}


def launch(plan: Launch, observer: Observer) -> Outcome:
    """Run it to its end: decode the data, start the processes, watch them. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data. Leaves no process and no socket file behind.
    """
    began = time.monotonic()
    outcome = Outcome()
    try:
        sockets = Path(tempfile.mkdtemp(prefix="p2pfl-"))  # mode 0700: nobody else can connect
    except OSError as error:
        raise ConfigError(f"no folder for sockets ({error.strerror}); set TMPDIR to one that can be written") from None
    try:
        with interruptible() as interrupts, fork_server():
            run = _Run(plan, observer, interrupts, sockets, outcome)
            try:
                run.dataset = prepare_data(plan.config, plan.cast, observer)
                observer.say(f"results in {plan.run_dir}")
                observer.say(f"starting {plan.topology.n} process{'es' * (plan.topology.n > 1)}")
                for index in range(plan.topology.n):
                    with interrupts.shielded():  # a process that is started is one that gets ended
                        run.workers.append(_start_worker(run, index))
                _watch(run)
            except KeyboardInterrupt:
                outcome.status, outcome.reason = "interrupted", "interrupted"
                observer.say("stopping; everything so far is saved")
            finally:
                interrupts.hold()  # what follows is short, and must not be cut short
                _end(run.workers, observer)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    outcome.seconds = time.monotonic() - began
    if outcome.refused:
        observer.warn("messages refused: " + ", ".join(f"{n} ({why})" for why, n in sorted(outcome.refused.items())))
    return outcome


def _run_worker(spec: messages.WorkerSpec, link: Connection) -> None:
    from p2pfl.worker import process  # not above: it imports torch, which a launcher does not need

    process.main(spec, link)


def _start_worker(run: _Run, index: int, again: bool = False, returns_in: int | None = None) -> _Worker:
    """`again`: it has died while others may be at work. `returns_in`: the round in which it is to be back."""
    plan = run.plan
    if again and run.workers[index].endpoint is not None:
        bind = str(run.workers[index].endpoint)  # where the others look for it
    elif plan.binds is not None:
        bind = plan.binds[index]
    else:
        bind = "tcp://127.0.0.1:*" if plan.config.exchange.transport == "tcp" else f"ipc://{run.sockets}/{index}"
    spec = messages.WorkerSpec(
        config=plan.config,
        run_dir=plan.run_dir,
        dataset=run.dataset,
        index=index,
        run=plan.run,
        settings=plan.settings,
        bind=bind,
        resume=plan.resume or again,
        link_delay=plan.link_delay,
        endpoints=run.neighbors_of(index) if again and run.begun else None,
        restarted=again and run.begun,
        returns_in=returns_in,
    )
    name = plan.topology.names[index]
    process, link = start(f"p2pfl-{name}", _run_worker, spec)
    folder = plan.run_dir / "peers" / plan.topology.node_path(index)
    return _Worker(index, name, process, link, heard=time.monotonic(), fired=len(fired(folder)))


def _watch(run: _Run) -> None:
    """Until everybody has ended, or the run cannot go on; then the others are ended too."""
    plan, outcome = run.plan, run.outcome
    deadline = time.monotonic() + plan.config.exchange.start_timeout
    alone_since: float | None = None
    while any(worker.process.is_alive() or worker.link for worker in run.workers):
        by_link = {worker.link: worker for worker in run.workers if worker.link}
        sentinels = [worker.process.sentinel for worker in run.workers if worker.process.is_alive()]
        for ready in multiprocessing.connection.wait([*by_link, *sentinels], LOOK_SECONDS):
            if isinstance(ready, Connection) and by_link[ready].link:
                with run.interrupts.shielded():
                    _read(run, by_link[ready])
        for worker in run.workers:
            ended = not worker.process.is_alive() and worker.link is None and not worker.done
            if ended and worker.name not in outcome.lost:
                _on_end(run, worker)
        if not run.begun and time.monotonic() > deadline:
            late = ", ".join(_called(plan, worker) for worker in run.workers if worker.endpoint is None)
            outcome.fail(f"{late} not ready in time (--start-timeout)")
        alone_since = (alone_since or time.monotonic()) if _is_alone(plan, run.workers) else None
        if alone_since is not None and time.monotonic() > alone_since + ALONE_SECONDS:
            outcome.fail("all clients are gone, and the coordinator does not answer")
        if outcome.reason:
            return
        if _is_over(run):
            silent = [worker.name for worker in run.workers if not worker.done and worker.name not in outcome.lost]
            outcome.lost += silent
            return


def _on_end(run: _Run, worker: _Worker) -> None:
    """A worker has ended without having finished: start it again, or do without it, or end the run."""
    plan, outcome = run.plan, run.outcome
    if worker.process.exitcode == 0:  # it had finished, and could not say so any more
        worker.done_since = time.monotonic()
        return
    if worker.failure:
        reason = f"{_called(plan, worker)}: {worker.failure}"
    else:
        log = plan.run_dir / "peers" / plan.topology.node_path(worker.index) / "log.txt"
        reason = f"{_called(plan, worker)} died ({exit_text(worker.process)}); see {log}"
    back = _scripted_return(run, worker)
    if worker.usage:
        outcome.lost.append(worker.name)
        outcome.fail(reason, "usage")
    elif back is not None:
        run.observer.warn(f"{_called(plan, worker)} was killed, as the fault script says, to be back in round {back}")
        _start_again(run, worker, back)
    elif outcome.restarts.get(worker.name, 0) < plan.config.exchange.restart and not outcome.reason:
        outcome.restarts[worker.name] = outcome.restarts.get(worker.name, 0) + 1
        run.observer.warn(f"{reason}; started again")
        _start_again(run, worker)
    else:
        _lose(run, worker, reason)


def _start_again(run: _Run, worker: _Worker, returns_in: int | None = None) -> None:
    with run.interrupts.shielded():
        endpoint = worker.endpoint
        run.workers[worker.index] = _start_worker(run, worker.index, True, returns_in)
        run.workers[worker.index].endpoint = endpoint if run.begun else None


def _scripted_return(run: _Run, worker: _Worker) -> int | None:
    """The round in which a worker is to be back that was just killed by the fault script, if it is to be."""
    if worker.failure or not run.plan.script.faults:
        return None
    folder = run.plan.run_dir / "peers" / run.plan.topology.node_path(worker.index)
    done = fired(folder)
    kill = run.plan.script.faults[done[-1]] if done else None
    known = len(done) > worker.fired
    return kill.restart if known and isinstance(kill, Kill) else None


def _wake(run: _Run, worker: _Worker, round: int) -> None:
    """A worker has done a round: neighbors of its that are frozen until the next one go on."""
    for neighbor in run.plan.cast.links[worker.index]:
        for _, fault in run.plan.script.of(neighbor):
            if isinstance(fault, Pause) and round >= fault.resume - 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(run.workers[neighbor].process.pid or 0, signal.SIGCONT)  # nothing to one that is awake


def _is_alone(plan: Launch, workers: list[_Worker]) -> bool:
    """Whether there is a coordinator that has not finished, and no client any more."""
    center = plan.cast.coordinator
    if center is None or workers[center].done:
        return False
    return not any(worker.process.is_alive() for worker in workers if worker.index != center)


def _is_over(run: _Run) -> bool:
    """Whether all that matters have finished, and the others, which may hang, have had time to hear of it."""
    now, center = time.monotonic(), run.plan.cast.coordinator
    if center is not None:
        done_since = run.workers[center].done_since
        return done_since is not None and now > done_since + STOP_SECONDS
    rest = [worker for worker in run.workers if not worker.done and worker.name not in run.outcome.lost]
    if not rest or not any(worker.done for worker in run.workers):
        return False
    # Peers that were cut off may still be at work; one that reports nothing for so long is frozen.
    patience = max(run.plan.config.exchange.round_timeout, STOP_SECONDS)
    return all(now > worker.heard + patience for worker in rest)


def _lose(run: _Run, worker: _Worker, reason: str) -> None:
    """A worker is gone for good. That is the end of the run, unless the others can do without it."""
    plan, outcome = run.plan, run.outcome
    outcome.lost.append(worker.name)
    can_spare = run.begun and plan.cast.coordinator not in (None, worker.index)
    if plan.config.mode == "gossip":
        least = plan.config.gossip.min_peers
        can_spare = run.begun and plan.topology.n - len(outcome.lost) >= (plan.topology.n if least is None else least)
    if can_spare:
        run.observer.warn(reason)
        outcome.first_loss = outcome.first_loss or reason
        _pass_on_the_model(run)
    else:
        first = f" (first: {outcome.first_loss})" if outcome.first_loss else ""
        outcome.fail(reason + first)


def _pass_on_the_model(run: _Run) -> None:
    """If whoever was to evaluate and save the run's model is gone, the first that is left does it."""
    if run.plan.config.mode != "gossip":
        return
    left = [worker for worker in run.workers if worker.name not in run.outcome.lost and not worker.done]
    if left and left[0].index > 0 and left[0].link is not None and not run.workers[0].done:
        with contextlib.suppress(OSError):
            left[0].link.send_bytes(messages.encode(messages.HoldModel()))


def _called(plan: Launch, worker: _Worker) -> str:
    if plan.cast.coordinator is None:
        return f"peer {worker.name}"
    return "the coordinator" if worker.index == plan.cast.coordinator else f"client {worker.name}"


def _read(run: _Run, worker: _Worker) -> None:
    assert worker.link is not None
    plan, observer, outcome = run.plan, run.observer, run.outcome
    try:
        message = messages.decode_from_worker(worker.link.recv_bytes())
    except (EOFError, OSError):
        worker.link.close()
        worker.link = None
        return
    worker.heard = time.monotonic()
    if isinstance(message, messages.Ready):
        if not run.begun:
            worker.endpoint = message.endpoint
            ready = sum(other.endpoint is not None for other in run.workers)
            observer.progress("processes ready", ready, len(run.workers))
            if ready == len(run.workers):
                observer.expect(message.steps)
                observer.say(_forecast(plan, message))
                _introduce(run)
    elif isinstance(message, messages.Stepped):
        observer.step(worker.index, message.steps)
    elif isinstance(message, messages.RoundFinished):
        observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
        _wake(run, worker, message.record.round)
    elif isinstance(message, messages.Warned):
        observer.warn(f"{_called(plan, worker)}: {message.text}")
    elif isinstance(message, messages.Done):
        worker.done_since = time.monotonic()
        for reason, count in message.refused.items():
            outcome.refused[reason] = outcome.refused.get(reason, 0) + count
    elif isinstance(message, messages.Failed):
        worker.failure, worker.usage = message.reason, message.usage


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


def _introduce(run: _Run) -> None:
    """Tell everybody where its own neighbors are, and nobody else."""
    run.begun = True
    for worker in run.workers:
        if worker.link is not None:
            with contextlib.suppress(OSError):
                worker.link.send_bytes(messages.encode(messages.Endpoints(run.neighbors_of(worker.index))))


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
