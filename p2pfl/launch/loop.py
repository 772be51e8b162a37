"""Launch loop: joins the supervisor to a launcher and to the observers."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np

from p2pfl.errors import LostLauncherError, P2PFLError
from p2pfl.faults import Kill
from p2pfl.launch import events as ev
from p2pfl.launch import supervisor as policy
from p2pfl.launch.base import Launcher, LaunchSpec, Outcome, WorkerHandle
from p2pfl.launch.observers import Observer, Observers
from p2pfl.launch.supervisor import Supervisor
from p2pfl.node import messages
from p2pfl.util.signals import Interrupts, interruptible, shielded

LOOK_SECONDS = 0.5  # between two looks at the workers at the most


def supervise(spec: LaunchSpec, launcher: Launcher, observers: Sequence[Observer]) -> Outcome:
    """Run a launch to its end. Ctrl-C and SIGTERM end it early; no worker outlives it.

    Raises P2PFLError where it cannot start.
    """
    began = time.monotonic()
    told = Observers(observers)
    with interruptible() as interrupts:
        outcome = _Loop(spec, launcher, told, interrupts).run()
    outcome.seconds = time.monotonic() - began
    if outcome.refused:
        told.warn("messages refused: " + ", ".join(f"{n} ({why})" for why, n in sorted(outcome.refused.items())))
    return outcome


class _Loop:
    """Carries out the supervisor's actions, and passes on the workers' reports."""

    def __init__(self, spec: LaunchSpec, launcher: Launcher, observer: Observer, interrupts: Interrupts) -> None:
        self._spec = spec
        self._launcher = launcher
        self._observer = observer
        self._interrupts = interrupts
        self._supervisor = Supervisor(spec)
        self._workers: dict[int, WorkerHandle] = {}  # those that have not ended
        self._last_resort: threading.Timer | None = None

    def run(self) -> Outcome:
        spec, supervisor = self._spec, self._supervisor
        try:
            self._launcher.prepare(self._observer)
            spec.on_prepared()
            self._observer.info(f"results in {spec.run_dir}")
            self._observer.info(f"starting {spec.topology.n} process{'es' * (spec.topology.n > 1)}")
            self._carry_out(supervisor.begin())
            while not supervisor.is_shutting_down:
                self._turn()
            self._interrupts.hold(lambda: None)  # no interrupt comes between this and the end of all workers
        except KeyboardInterrupt:
            self._feed(ev.Interrupted())
        finally:
            self._end_workers()
        return supervisor.outcome

    def _turn(self) -> None:
        seconds = min(LOOK_SECONDS, max(self._supervisor.deadline - time.monotonic(), 0.0))
        try:
            self._launcher.watch(seconds, self._report)
        except LostLauncherError as error:  # the run ends, and workers that can be reached end in order
            self._supervisor.outcome.fail(str(error))
        for index, worker in list(self._workers.items()):
            if worker.has_ended():
                del self._workers[index]
                self._exited(index, worker)
        self._feed(ev.Tick())

    def _feed(self, event: ev.Event) -> None:
        self._carry_out(self._supervisor.handle(event, time.monotonic()))

    # Reports

    def _report(self, index: int, message: messages.FromWorker) -> None:
        """Take in a report. While a run ends, only its last rounds are shown."""
        if isinstance(message, messages.RoundFinished):
            self._observer.round(index, message.record, np.frombuffer(message.sketch, "<f4"))
        elif isinstance(message, messages.Stepped) and not self._supervisor.is_shutting_down:
            self._observer.step(index, message.steps)
        elif isinstance(message, messages.Warned) and not self._supervisor.is_shutting_down:
            self._observer.warn(f"{self._spec.title(index)}: {message.text}")
        self._feed(ev.event_of(index, message))

    def _exited(self, index: int, worker: WorkerHandle) -> None:
        try:
            if self._supervisor.is_shutting_down:  # how it ended does not matter, and may take time to learn
                self._feed(ev.Exited(index, None, ""))
            else:
                self._feed(ev.Exited(index, worker.exitcode, worker.exit_text(), self._kill_by(worker)))
        finally:
            worker.close()

    def _kill_by(self, worker: WorkerHandle) -> Kill | None:
        """The scripted kill that ended a worker, if one did."""
        faults = self._spec.script.faults
        fired = worker.new_faults() if faults else ()
        last = faults[fired[-1]] if fired else None
        return last if isinstance(last, Kill) else None

    # Actions

    def _carry_out(self, actions: Sequence[ev.Action]) -> None:
        for action in actions:
            self._do(action)

    def _do(self, action: ev.Action) -> None:
        if isinstance(action, ev.StartWorker):
            self._start(action)
        elif isinstance(action, ev.SendEndpoints):
            self._send(action.worker, messages.Endpoints(action.endpoints))
        elif isinstance(action, ev.HoldModel):
            self._send(action.worker, messages.HoldModel())
        elif isinstance(action, ev.Wake):
            if action.worker in self._workers:
                self._workers[action.worker].signal(signal.SIGCONT)
        elif isinstance(action, ev.Shutdown):
            for index in list(self._workers):
                self._send(index, messages.Stop())
        elif isinstance(action, ev.KillAll):
            self._kill_all()
        elif isinstance(action, ev.PutOffKill):
            self._put_off_kill()
        elif isinstance(action, ev.ShowLine):
            (self._observer.warn if action.warns else self._observer.info)(action.text)
        elif isinstance(action, ev.Progress):
            self._observer.progress(action.what, action.done, action.total)
        else:
            self._observer.expect(action.steps, action.consensus_rounds)

    def _start(self, order: ev.StartWorker) -> None:
        try:
            with shielded():  # a worker that is started is one that gets ended
                self._workers[order.worker] = self._launcher.start(order)
                self._feed(ev.Started(order.worker))
        except P2PFLError as error:
            if not order.again:
                raise
            self._feed(ev.NotStarted(order.worker, str(error)))

    def _send(self, index: int, order: messages.ToWorker) -> None:
        if index in self._workers:
            self._workers[index].send(order)

    # Shutdown

    def _end_workers(self) -> None:
        """Stop all workers, then kill those that are left.

        A further interrupt kills at once. Reports still under way are read. Every wait has a limit.
        """
        self._interrupts.hold(lambda: self._feed(ev.Interrupted()))
        self._put_off_kill()
        try:
            self._carry_out(self._supervisor.shutdown(time.monotonic()))
            while not self._supervisor.is_finished:
                self._turn()
        finally:  # whatever has failed, no worker outlives this
            self._kill_all()
            if self._last_resort is not None:
                self._last_resort.cancel()
                self._last_resort.join()
            for worker in self._workers.values():
                worker.join(policy.KILL_SECONDS)
                worker.close()

    def _put_off_kill(self) -> None:
        """Kill all workers in some seconds from now, whatever this thread waits for then.

        A worker that was stopped amid a report would be waited for as it is read: hence another thread.
        """
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._last_resort = threading.Timer(policy.STOP_SECONDS + policy.KILL_SECONDS, self._kill_all)
        self._last_resort.daemon = True
        self._last_resort.start()

    def _kill_all(self) -> None:
        for worker in list(self._workers.values()):
            with contextlib.suppress(OSError):
                worker.kill()
