"""Supervisor of a launch: restart policy and shutdown, as a pure state machine.

No processes, files or clock: events in, actions out; `now` is seconds on the caller's clock. A worker that dies
is started again (as the fault script says, or within the restart budget), is lost, or ends the run.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import Literal

from p2pfl.faults import Pause
from p2pfl.launch import events as ev
from p2pfl.launch.base import LaunchSpec, Outcome
from p2pfl.launch.worker_state import WorkerState
from p2pfl.run.paths import CONFIG_FILE, LOG_FILE

ALONE_SECONDS = 30.0  # for a coordinator whose clients are all gone; it notices within about ten
STOP_SECONDS = 5.0  # for workers to stop when asked to
KILL_SECONDS = 2.0  # within which a killed process is gone, unless it hangs in the system


class Supervisor:
    """Restart policy and end of one launch.

    Call `begin`, then `handle` for each event, with a `Tick` after each batch; carry out the actions in order. From
    `Shutdown` on `is_shutting_down` holds; when `is_finished` holds too, workers that are left may be abandoned.
    """

    def __init__(self, spec: LaunchSpec) -> None:
        self.outcome = Outcome()
        self._spec = spec
        self._names = spec.topology.names
        self._workers = [WorkerState(index) for index in range(spec.topology.n)]
        self._stage: Literal["starting", "running", "stopping", "ended"] = "starting"
        self._restarting: dict[int, tuple[str, int | None]] = {}  # ordered: the reason, the round of a scripted return
        self._ready_by = math.inf
        self._longest_round = 0.0  # seconds
        self._clients_gone_since: float | None = None
        self._stop_by = self._gone_by = math.inf
        self._is_collecting = False  # files of workers, although the run has ended
        self._handlers: dict[type[ev.Event], Callable[..., list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.NotStarted: self._on_not_started,
            ev.Ready: self._on_ready,
            ev.RoundFinished: self._on_round,
            ev.Finished: self._on_finished,
            ev.Failed: self._on_failed,
            ev.Exited: self._on_exited,
            ev.Tick: self._look,
            ev.Interrupted: self._on_interrupted,
        }

    @property
    def is_shutting_down(self) -> bool:
        """Whether the run has ended, and its workers are to end too."""
        return self._stage in ("stopping", "ended")

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to wait for."""
        return self._stage == "ended"

    @property
    def deadline(self) -> float:
        """Time at which a `Tick` is due at the latest."""
        return min(self._stop_by, self._gone_by)

    def begin(self) -> list[ev.Action]:
        """Start all workers."""
        return [ev.StartWorker(worker.index) for worker in self._workers]

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take in an event; returns what is to be done."""
        if self.is_shutting_down:
            return self._handle_while_stopping(event, now)
        if isinstance(event, ev.Report):
            self._workers[event.worker].heard = now
        handler = self._handlers.get(type(event))
        return [] if handler is None else handler(event, now)

    def shutdown(self, now: float) -> list[ev.Action]:
        """End the run now, whatever its state; without effect once it is ending."""
        if self.is_shutting_down:
            return []
        self._stage, self._stop_by = "stopping" if self._any_alive() else "ended", now + STOP_SECONDS
        return [ev.Shutdown()]

    # Events

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        before = self._workers[event.worker]
        endpoint = before.endpoint if self._stage == "running" else None
        self._workers[event.worker] = WorkerState(event.worker, True, endpoint=endpoint, heard=now, round_began=now)
        restart = self._restarting.pop(event.worker, None)
        if restart is None:
            self._ready_by = now + self._spec.config.exchange.start_timeout
            return []
        reason, returns_in = restart
        if returns_in is not None:
            return [ev.ShowLine(f"{reason}, to be back in round {returns_in}", warns=True)]
        name = self._names[event.worker]
        self.outcome.restarts[name] = self.outcome.restarts.get(name, 0) + 1
        return [ev.ShowLine(f"{reason}; started again", warns=True)]

    def _on_not_started(self, event: ev.NotStarted, now: float) -> list[ev.Action]:
        reason, _ = self._restarting.pop(event.worker)
        return self.mark_lost(event.worker, f"{reason}, and cannot be started again: {event.reason}")

    def _on_ready(self, event: ev.Ready, now: float) -> list[ev.Action]:
        worker = self._workers[event.worker]
        if self._stage != "starting":
            return [] if event.endpoint == worker.endpoint else self._on_moved(worker, event.endpoint)
        worker.endpoint, worker.lost_weights = event.endpoint, event.lost_weights
        ready = sum(other.endpoint is not None for other in self._workers)
        actions: list[ev.Action] = [ev.Progress("processes ready", ready, len(self._workers))]
        if all(other.lost_weights for other in self._workers):
            config = shlex.quote(str(self._spec.run_dir / CONFIG_FILE))
            new = f"start a new run with: p2pfl {self._spec.config.mode} --config {config}"
            self.outcome.fail(f"no peer has a checkpoint that can be used; {new}", resumable=False)
        elif ready == len(self._workers):
            self._stage = "running"
            actions += [ev.Expect(event.steps, event.consensus_rounds), ev.ShowLine(self._spec.forecast(event))]
            actions += [ev.SendEndpoints(other.index, self._endpoints_for(other.index)) for other in self._workers]
        return actions

    def _on_moved(self, worker: WorkerState, endpoint: str) -> list[ev.Action]:
        """Announce a worker's new endpoint to its neighbors, then theirs to it."""
        worker.endpoint = endpoint
        here = (self._workers[neighbor] for neighbor in sorted(self._spec.roles.links[worker.index]))
        told: list[ev.Action] = [ev.SendEndpoints(w.index, {worker.index: endpoint}) for w in here if w.is_alive]
        return [*told, ev.SendEndpoints(worker.index, self._endpoints_for(worker.index))]

    def _on_round(self, event: ev.RoundFinished, now: float) -> list[ev.Action]:
        """Measure the round, and wake neighbors that pause until it is done."""
        worker = self._workers[event.worker]
        self._longest_round = max(self._longest_round, now - worker.round_began)
        worker.round_began = now
        neighbors = sorted(self._spec.roles.links[event.worker]) if self._spec.script.faults else []
        return [
            ev.Wake(neighbor)
            for neighbor in neighbors
            for _, fault in self._spec.script.of(neighbor)
            if isinstance(fault, Pause) and event.round >= fault.resume - 1
        ]

    def _on_finished(self, event: ev.Finished, now: float) -> list[ev.Action]:
        self._workers[event.worker].done_since = now
        for reason, count in event.refused.items():
            self.outcome.refused[reason] = self.outcome.refused.get(reason, 0) + count
        return []

    def _on_failed(self, event: ev.Failed, now: float) -> list[ev.Action]:
        self._workers[event.worker].failure = event
        return []

    def _on_exited(self, event: ev.Exited, now: float) -> list[ev.Action]:
        """Start a worker again that has not finished, or mark it lost, or end the run."""
        worker, outcome = self._workers[event.worker], self.outcome
        worker.is_alive = False
        if event.code == 0 and not worker.is_done:  # it had finished, and could not say so
            worker.done_since = now
        if worker.is_done:
            return []
        title, failure = self._spec.title(event.worker), worker.failure
        if failure is not None and failure.usage:
            self._lose(worker)
            outcome.fail(f"{title}: {failure.reason}", "usage")
            return []
        if failure is None and event.kill is not None:
            reason = f"{title} was killed, as the fault script says"
            if event.kill.restart is not None:
                return [self._restart(worker, reason, event.kill.restart)]
        elif failure is not None:
            reason = f"{title}: {failure.reason}"
        else:
            reason = f"{title} died ({event.how}); see {self._spec.peer_dir(event.worker) / LOG_FILE}"
        restarts = outcome.restarts.get(self._names[event.worker], 0)
        if restarts < self._spec.config.exchange.restart and not outcome.reason:
            return [self._restart(worker, reason)]
        return self.mark_lost(event.worker, reason)

    def _on_interrupted(self, event: ev.Interrupted, now: float) -> list[ev.Action]:
        self.outcome.status, self.outcome.reason = "interrupted", "interrupted"
        return [ev.ShowLine("stopping; everything so far is saved"), *self.shutdown(now)]

    def _handle_while_stopping(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Wait for the workers to end, then kill them, then give up on those that hang."""
        if isinstance(event, ev.Exited):
            self._workers[event.worker].is_alive = False
            self._stage = "stopping" if self._any_alive() else "ended"
        if isinstance(event, ev.LastFilesReceived) and self._stop_by < math.inf:
            return self._wait_for_files(now)
        late = isinstance(event, ev.Tick) and now >= self._stop_by
        if late or (isinstance(event, ev.Interrupted) and self._stop_by < math.inf):
            self._stop_by, self._gone_by = math.inf, now + KILL_SECONDS
            return [ev.KillAll()]
        if isinstance(event, ev.Tick) and now >= self._gone_by:
            self._stage = "ended"
        return []

    def _wait_for_files(self, now: float) -> list[ev.Action]:
        """Put off the killing while the last files of ended workers come in."""
        is_first, self._is_collecting = not self._is_collecting, True
        self._stop_by = now + STOP_SECONDS
        told = "collecting the last files of nodes that do not share the run directory; Ctrl-C gives them up"
        return [ev.PutOffKill(), *([ev.ShowLine(told)] if is_first else [])]

    # Decisions

    def _restart(self, worker: WorkerState, reason: str, returns_in: int | None = None) -> ev.StartWorker:
        self._restarting[worker.index] = (reason, returns_in)
        endpoints = self._endpoints_for(worker.index) if self._stage == "running" else None
        return ev.StartWorker(worker.index, True, worker.endpoint, endpoints, returns_in)

    def mark_lost(self, index: int, reason: str) -> list[ev.Action]:
        """Give a worker up; that ends the run, unless the others can continue without it."""
        outcome, failure = self.outcome, self._workers[index].failure
        self._lose(self._workers[index])
        if self._can_continue_without(index):
            outcome.first_loss = outcome.first_loss or reason
            return [ev.ShowLine(reason, warns=True), *self.reassign_model_owner()]
        first = f" (first: {outcome.first_loss})" if outcome.first_loss else ""
        resumable, diverged = failure is None or failure.resumable, failure is not None and failure.diverged
        outcome.fail(reason + first, resumable=resumable, diverged=diverged)
        return []

    def reassign_model_owner(self) -> list[ev.Action]:
        """Make the first peer that is left the model's owner, if the owner is gone."""
        if not self._spec.roles.mode.mixes or self._spec.roles.model_owner is None:
            return []
        left = self._unfinished()
        return [ev.HoldModel(left[0].index)] if left and left[0].index > 0 and not self._workers[0].is_done else []

    def _can_continue_without(self, index: int) -> bool:
        """Whether the run has begun and can lose a worker besides those already lost."""
        if self._stage != "running":
            return False
        if self._spec.roles.mode.mixes:
            n, least = self._spec.topology.n, self._spec.config.gossip.min_peers
            return n - len(self.outcome.lost) >= (n if least is None else least)
        return self._spec.roles.coordinator not in (None, index)

    def _look(self, event: ev.Tick, now: float) -> list[ev.Action]:
        """End the run where it failed, is complete, or makes no progress."""
        if self._stage == "starting" and now > self._ready_by:
            late = ", ".join(self._spec.title(worker.index) for worker in self._workers if worker.endpoint is None)
            self.outcome.fail(f"{late} not ready in time (--start-timeout)")
        if not self._clients_gone():
            self._clients_gone_since = None
        elif self._clients_gone_since is None:
            self._clients_gone_since = now
        elif now > self._clients_gone_since + ALONE_SECONDS:
            self.outcome.fail("all clients are gone, and the coordinator does not answer")
        if self.outcome.reason:
            return self.shutdown(now)
        if not self._is_complete(now):
            return []
        for worker in self._unfinished():
            self._lose(worker)
        return self.shutdown(now)

    def _is_complete(self, now: float) -> bool:
        """Whether the run has finished, and workers that may hang have had time to end."""
        if not self._any_alive():
            return True
        center = self._spec.roles.coordinator
        if center is not None:
            done_since = self._workers[center].done_since
            return done_since is not None and now > done_since + STOP_SECONDS
        if not any(worker.is_done for worker in self._workers):
            return False
        # Others may train, evaluate, or wait for vectors over slow links; after so long a silence they are frozen.
        timeout = max(self._spec.config.exchange.round_timeout, STOP_SECONDS, 2 * self._longest_round)
        return all(now > worker.heard + timeout for worker in self._unfinished() or self._workers)

    def _clients_gone(self) -> bool:
        """Whether there is a coordinator that has not finished, and no client is alive."""
        center = self._spec.roles.coordinator
        clients = (worker.is_alive for worker in self._workers if worker.index != center)
        return center is not None and not self._workers[center].is_done and not any(clients)

    def _endpoints_for(self, index: int) -> dict[int, str]:
        """Endpoints of a worker's neighbors that are neither lost nor finished."""
        here = (self._workers[neighbor] for neighbor in sorted(self._spec.roles.links[index]))
        return {w.index: str(w.endpoint) for w in here if not w.is_done and not w.is_lost}

    def _lose(self, worker: WorkerState) -> None:
        worker.is_lost = True
        self.outcome.lost.append(self._names[worker.index])

    def _unfinished(self) -> list[WorkerState]:
        return [worker for worker in self._workers if not worker.is_done and not worker.is_lost]

    def _any_alive(self) -> bool:
        return any(worker.is_alive for worker in self._workers)
