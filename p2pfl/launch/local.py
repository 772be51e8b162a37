"""One run on this machine, from the first process to the last."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import shlex
import shutil
import signal
import time
from multiprocessing.connection import Connection

import numpy as np

from p2pfl.errors import ConfigError
from p2pfl.faults import Pause
from p2pfl.launch.observers import Observer
from p2pfl.launch.prepare import prepare_data
from p2pfl.launch.server import fork_server
from p2pfl.launch.started import Launch, Outcome, Run, Worker, called, start_worker
from p2pfl.launch.supervisor import end, is_alone, is_over, on_end
from p2pfl.node import messages
from p2pfl.run.paths import CONFIG_FILE
from p2pfl.util.signals import interruptible

ALONE_SECONDS = 30.0  # what a coordinator gets that has no clients any more; it notices in about ten
LOOK_SECONDS = 0.5


def launch(plan: Launch, observer: Observer) -> Outcome:
    """Run it to its end: decode the data, start the processes, watch them. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data or a TMPDIR that has no room. Leaves no process and no socket file behind.
    """
    began = time.monotonic()
    outcome = Outcome()
    with interruptible() as interrupts, fork_server() as server:
        sockets = server.folder.subfolder()  # mode 0700: nobody else can connect
        run = Run(plan, observer, interrupts, server, sockets, outcome)
        try:
            run.dataset = prepare_data(plan.config, plan.cast, plan.run_dir, observer, server, begins=not plan.resume)
            observer.say(f"results in {plan.run_dir}")
            observer.say(f"starting {plan.topology.n} process{'es' * (plan.topology.n > 1)}")
            for index in range(plan.topology.n):
                with interrupts.shielded():  # a process that is started is one that gets ended
                    run.workers.append(start_worker(run, index))
            _watch(run)
            interrupts.hold(lambda: None)  # no interrupt comes between this and the end of all workers
        except KeyboardInterrupt:
            outcome.status, outcome.reason = "interrupted", "interrupted"
            observer.say("stopping; everything so far is saved")
        finally:
            try:
                end(run.workers, observer, interrupts)
            finally:
                shutil.rmtree(sockets, ignore_errors=True)
    outcome.seconds = time.monotonic() - began
    if outcome.refused:
        observer.warn("messages refused: " + ", ".join(f"{n} ({why})" for why, n in sorted(outcome.refused.items())))
    return outcome


def _watch(run: Run) -> None:
    """Until everybody has ended, or the run cannot go on; then the others are ended too."""
    plan, outcome = run.plan, run.outcome
    deadline = time.monotonic() + plan.config.exchange.start_timeout
    alone_since: float | None = None
    while any(worker.process.is_alive() or worker.link for worker in run.workers):
        with contextlib.suppress(ConfigError):  # which matters only to a worker that is started again
            run.ensure_sockets()
        by_link = {worker.link: worker for worker in run.workers if worker.link}
        sentinels = [worker.process.sentinel for worker in run.workers if worker.process.is_alive()]
        for ready in multiprocessing.connection.wait([*by_link, *sentinels], LOOK_SECONDS):
            if isinstance(ready, Connection) and by_link[ready].link:
                with run.interrupts.shielded():
                    _read(run, by_link[ready])
        for worker in run.workers:
            ended = not worker.process.is_alive() and worker.link is None and not worker.done
            if ended and worker.name not in outcome.lost:
                on_end(run, worker)
        if not run.begun and time.monotonic() > deadline:
            late = ", ".join(called(plan, worker) for worker in run.workers if worker.endpoint is None)
            outcome.fail(f"{late} not ready in time (--start-timeout)")
        alone_since = (alone_since or time.monotonic()) if is_alone(plan, run.workers) else None
        if alone_since is not None and time.monotonic() > alone_since + ALONE_SECONDS:
            outcome.fail("all clients are gone, and the coordinator does not answer")
        if outcome.reason:
            return
        if is_over(run):
            silent = [worker.name for worker in run.workers if not worker.done and worker.name not in outcome.lost]
            outcome.lost += silent
            return


def _read(run: Run, worker: Worker) -> None:
    assert worker.link is not None
    plan, observer, outcome = run.plan, run.observer, run.outcome
    try:
        message = messages.receive_report(worker.link)
    except EOFError:
        worker.link.close()
        worker.link = None
        return
    worker.heard = time.monotonic()
    if isinstance(message, messages.Ready):
        if not run.begun:
            worker.endpoint, worker.lost_weights = message.endpoint, message.lost
            ready = sum(other.endpoint is not None for other in run.workers)
            observer.progress("processes ready", ready, len(run.workers))
            if all(other.lost_weights for other in run.workers):
                new = f"p2pfl {plan.config.mode} --config {shlex.quote(str(plan.run_dir / CONFIG_FILE))}"
                reason = f"no peer has a checkpoint that can be used; start a new run with: {new}"
                outcome.fail(reason, resumable=False)
            elif ready == len(run.workers):
                observer.expect(message.steps)
                observer.say(_forecast(plan, message))
                _introduce(run)
    elif isinstance(message, messages.Stepped):
        observer.step(worker.index, message.steps)
    elif isinstance(message, messages.RoundFinished):
        observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
        _wake(run, worker, message.record.round)
    elif isinstance(message, messages.Warned):
        observer.warn(f"{called(plan, worker)}: {message.text}")
    elif isinstance(message, messages.Done):
        worker.done_since = time.monotonic()
        for reason, count in message.refused.items():
            outcome.refused[reason] = outcome.refused.get(reason, 0) + count
    elif isinstance(message, messages.Failed):
        worker.failure, worker.usage, worker.resumable = message.reason, message.usage, message.resumable


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


def _introduce(run: Run) -> None:
    """Tell everybody where its own neighbors are, and nobody else."""
    run.begun = True
    for worker in run.workers:
        if worker.link is not None:
            with contextlib.suppress(OSError):
                worker.link.send_bytes(messages.encode(messages.Endpoints(run.neighbors_of(worker.index))))


def _wake(run: Run, worker: Worker, round: int) -> None:
    """A worker has done a round: neighbors of its that are frozen until the next one go on."""
    for neighbor in run.plan.cast.links[worker.index]:
        for _, fault in run.plan.script.of(neighbor):
            if isinstance(fault, Pause) and round >= fault.resume - 1:
                run.workers[neighbor].process.signal(signal.SIGCONT)  # nothing to one that is awake
