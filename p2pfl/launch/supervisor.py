"""Workers that end before the run does: started again, done without, or the end of the run."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import signal
import threading
import time

import numpy as np

from p2pfl.errors import P2PFLError
from p2pfl.faults import Kill
from p2pfl.faults.injector import fired
from p2pfl.launch.observers import Observer
from p2pfl.launch.started import Launch, Run, Worker, called, start_worker
from p2pfl.node import messages
from p2pfl.run.paths import FIRED_FILE, LOG_FILE, peer_dir
from p2pfl.util.signals import Interrupts

STOP_SECONDS = 5.0  # what workers get to end by themselves when told to
KILL_SECONDS = 2.0  # within which a killed process is gone, unless it hangs in the system


def on_end(run: Run, worker: Worker) -> None:
    """A worker has ended without having finished: start it again, or do without it, or end the run."""
    plan, outcome = run.plan, run.outcome
    if worker.process.exitcode == 0:  # it had finished, and could not say so any more
        worker.done_since = time.monotonic()
        return
    if worker.failure:
        reason = f"{called(plan, worker)}: {worker.failure}"
    else:
        log = peer_dir(plan.run_dir, plan.topology, worker.index) / LOG_FILE
        reason = f"{called(plan, worker)} died ({worker.process.exit_text()}); see {log}"
    kill = _scripted_kill(run, worker)
    if kill is not None:
        reason = f"{called(plan, worker)} was killed, as the fault script says"
    if worker.usage:
        outcome.lost.append(worker.name)
        outcome.fail(reason, "usage")
    elif kill is not None and kill.restart is not None:
        _start_again(run, worker, reason, f", to be back in round {kill.restart}", kill.restart)
    elif outcome.restarts.get(worker.name, 0) < plan.config.exchange.restart and not outcome.reason:
        if _start_again(run, worker, reason, "; started again"):
            outcome.restarts[worker.name] = outcome.restarts.get(worker.name, 0) + 1
    else:
        _lose(run, worker, reason)


def _start_again(run: Run, worker: Worker, reason: str, how: str, returns_in: int | None = None) -> bool:
    """Start a worker again; where the system has no room for it, it is lost."""
    try:
        with run.interrupts.shielded():
            started = start_worker(run, worker.index, True, returns_in)
            started.endpoint = worker.endpoint if run.begun else None
            run.workers[worker.index] = started
    except P2PFLError as error:
        _lose(run, worker, f"{reason}, and cannot be started again: {error}")
        return False
    worker.process.close()
    run.observer.warn(f"{reason}{how}")
    return True


def _scripted_kill(run: Run, worker: Worker) -> Kill | None:
    """What the fault script has just done to a worker, if that is why it ended."""
    if worker.failure or not run.plan.script.faults:
        return None
    done = fired(peer_dir(run.plan.run_dir, run.plan.topology, worker.index) / FIRED_FILE)
    last = run.plan.script.faults[done[-1]] if len(done) > worker.fired else None
    return last if isinstance(last, Kill) else None


def _lose(run: Run, worker: Worker, reason: str) -> None:
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
        outcome.fail(reason + first, resumable=worker.resumable)


def _pass_on_the_model(run: Run) -> None:
    """If whoever was to evaluate and save the run's model is gone, the first that is left does it."""
    if run.plan.config.mode != "gossip":
        return
    left = [worker for worker in run.workers if worker.name not in run.outcome.lost and not worker.done]
    if left and left[0].index > 0 and left[0].link is not None and not run.workers[0].done:
        with contextlib.suppress(OSError):
            left[0].link.send_bytes(messages.encode(messages.HoldModel()))


def is_alone(plan: Launch, workers: list[Worker]) -> bool:
    """Whether there is a coordinator that has not finished, and no client any more."""
    center = plan.cast.coordinator
    if center is None or workers[center].done:
        return False
    return not any(worker.process.is_alive() for worker in workers if worker.index != center)


def is_over(run: Run) -> bool:
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


def end(workers: list[Worker], observer: Observer, interrupts: Interrupts) -> None:
    """End all workers: ask them, then kill them, at once where the user interrupts again.

    Reports still under way are read. Every wait has a limit.
    """

    def kill() -> None:
        for worker in workers:
            worker.process.kill()

    interrupts.hold(kill)
    # A worker that was stopped in the middle of a report would be waited for as it is read: hence another thread.
    last_resort = threading.Timer(STOP_SECONDS + KILL_SECONDS, kill)
    last_resort.daemon = True
    last_resort.start()
    try:
        _ask_to_end(workers, observer)
        kill()
        for worker in workers:
            worker.process.join(KILL_SECONDS)
            _drain(worker, observer)
    finally:  # whatever has failed, no worker outlives this
        kill()
        last_resort.cancel()
        last_resort.join()
        for worker in workers:
            worker.process.join(KILL_SECONDS)
            if worker.link is not None:
                worker.link.close()
            worker.process.close()


def _ask_to_end(workers: list[Worker], observer: Observer) -> None:
    for worker in workers:
        if worker.link is None:
            worker.process.signal(signal.SIGTERM)  # what a worker takes for the same order
        elif worker.process.is_alive():
            with contextlib.suppress(OSError):
                worker.link.send_bytes(messages.encode(messages.Stop()))
    deadline = time.monotonic() + STOP_SECONDS
    while any(worker.process.is_alive() for worker in workers) and time.monotonic() < deadline:
        sentinels = [worker.process.sentinel for worker in workers if worker.process.is_alive()]
        links = [worker.link for worker in workers if worker.link]
        multiprocessing.connection.wait([*links, *sentinels], max(deadline - time.monotonic(), 0.0))
        for worker in workers:
            _drain(worker, observer)


def _drain(worker: Worker, observer: Observer) -> None:
    try:
        while worker.link is not None and worker.link.poll():
            message = messages.receive_report(worker.link)
            if isinstance(message, messages.RoundFinished):
                observer.round(worker.index, message.record, np.frombuffer(message.sketch, "<f4"))
    except EOFError:
        assert worker.link is not None
        worker.link.close()
        worker.link = None
