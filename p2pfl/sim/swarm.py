"""Simulated swarm: all processes of a run in one, driven by the same loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, P2PFLError, TransportError
from p2pfl.faults import Kill
from p2pfl.launch import LaunchSpec, Outcome
from p2pfl.launch import events as ev
from p2pfl.launch.recovery import recover, recovery_line
from p2pfl.launch.supervisor import Supervisor
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import resume_fingerprint, run_fingerprint
from p2pfl.run.settings import fault_script, resolve
from p2pfl.sim.clock import VirtualClock
from p2pfl.sim.link import LinkSpeed
from p2pfl.sim.network import VirtualNetwork
from p2pfl.sim.worker import Environment, SimWorker
from p2pfl.topology import Topology

LOOK_SECONDS = 0.5  # between two looks of the supervisor at the most, as on real processes
IDLE_SECONDS = 86_400.0  # of the supervisor's looks alone, after which a simulation has hung


class Simulation:
    """Swarm on virtual time.

    `run` runs it to its end; `step` lets one process take a turn.

    Training is real, on this process's CPU, so that a synchronous run ends with the same bits as on real processes
    with the same settings and thread count. Only time and network are virtual: a round's training takes
    `train_seconds`, messages travel with `speed`, and a process starts at once. Kills, pauses and all other faults of a
    script are played; the launcher's supervisor decides what follows.

    Raises ConfigError for settings that no run could be started with.
    """

    def __init__(
        self,
        topology: Topology,
        config: RunConfig,
        *,
        speed: LinkSpeed | None = None,
        train_seconds: float = 1.0,
        disk_seconds: float = 0.0,
        resume: Path | None = None,
    ) -> None:
        """`resume`: run directory of a simulated run to continue, with these settings.

        `disk_seconds`: how long a checkpoint takes to the disk, beside the next round's training.
        """
        self.clock = VirtualClock()
        self.network = VirtualNetwork(self.clock, speed, config.exchange.grace_timeout)
        config = resolve(config, topology, processes=1)
        roles = assign_roles(config, topology)
        self.run_dir = create_run_dir(topology, config) if resume is None else resume
        self.workers: dict[int, SimWorker] = {}  # the newest of each process
        self.lines: list[str] = []  # shown by the supervisor and the processes
        self._environment = Environment(self.clock, self.network, topology, train_seconds, disk_seconds)
        chosen = config.data
        self._dataset = data.prepare(chosen.dataset, chosen.data_dir, lambda *_: None, chosen.pictures)
        run = run_fingerprint(roles, config)
        script = fault_script(config, topology)
        settings = resume_fingerprint(roles, config)
        self._spec = LaunchSpec(roles, config, self.run_dir, run, settings, resume is not None, script=script)
        line = None if resume is None else recovery_line(roles, config, self.run_dir)
        if line is not None:
            recover(line, roles, config, self.run_dir, script)
        self._supervisor = Supervisor(self._spec)
        self._running: set[int] = set()
        self._reports: deque[tuple[int, messages.FromWorker]] = deque()  # not passed on yet
        self._looked = self._acted = 0.0
        self._carry_out(self._supervisor.begin())
        self._settle()

    @property
    def outcome(self) -> Outcome:
        """The end of the run, as far as it is known."""
        return self._supervisor.outcome

    def run(self) -> Outcome:
        """Run all processes to their end. Raises P2PFLError where the run fails."""
        while self.step():
            pass
        if self.outcome.status != "complete":
            self._fail()
        return self.outcome

    def step(self) -> bool:
        """Let the process that is due next take a turn; False when the run has ended.

        Of several the one with the lowest index is first.
        """
        if self._supervisor.is_finished:
            return False
        when, index = self._next()
        if when > self._looked + LOOK_SECONDS:
            self._look(self._looked + LOOK_SECONDS)
        else:
            self.clock.advance(when)
            self._acted = when
            self.workers[index].turn()
        self._settle()
        return not self._supervisor.is_finished

    def _next(self) -> tuple[float, int]:
        """Time of the next turn, and whose it is; of several the lowest index."""
        now, when, index = self.clock.now(), math.inf, -1
        for candidate in sorted(self._running):
            due = self.workers[candidate].due
            if due < when:
                when, index = due, candidate
            if due <= now:  # nobody's is earlier
                break
        return when, index

    def close(self) -> None:
        """Stop all processes where they are."""
        for index in self._running:
            self.workers[index].kill()
        self._running.clear()

    def _fail(self) -> NoReturn:
        outcome = self.outcome
        if outcome.status == "usage":
            raise ConfigError(outcome.reason)
        raise P2PFLError(outcome.reason, resumable=outcome.resumable)

    # Supervision

    def _look(self, now: float) -> None:
        """Let the supervisor look at the processes when nothing else happens."""
        if now > self._acted + IDLE_SECONDS:
            raise TransportError("no process of the simulated swarm has anything to wait for")
        self.clock.advance(now)
        self._feed(ev.Tick())

    def _feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.Tick):
            self._looked = self.clock.now()
        self._carry_out(self._supervisor.handle(event, self.clock.now()))

    def _settle(self) -> None:
        """Tell the supervisor all that processes have reported, and which have ended."""
        while True:
            while self._reports:
                index, message = self._reports.popleft()
                if isinstance(message, messages.Warned):
                    self.lines.append(f"{self._spec.title(index)}: {message.text}")
                self._feed(ev.event_of(index, message))
            ended = [index for index in sorted(self._running) if self.workers[index].exitcode is not None]
            if not ended:
                return
            for index in ended:
                self._running.discard(index)
                self._feed(self._exit_of(self.workers[index]))
            self._feed(ev.Tick())

    @staticmethod
    def _exit_of(worker: SimWorker) -> ev.Exited:
        last = worker.injected[-1] if worker.injected else None
        return ev.Exited(worker.index, worker.exitcode, worker.exit_text, last if isinstance(last, Kill) else None)

    def _carry_out(self, actions: Sequence[ev.Action]) -> None:
        for action in actions:
            if isinstance(action, ev.StartWorker):
                self._start(action)
            elif isinstance(action, ev.SendEndpoints):
                self.workers[action.worker].begin(action.endpoints)
            elif isinstance(action, ev.HoldModel):
                self.workers[action.worker].holds_model = True
            elif isinstance(action, ev.Wake):
                self.workers[action.worker].wake()
            elif isinstance(action, ev.Shutdown | ev.KillAll):
                for index in self._running:
                    self.workers[index].stop()
            elif isinstance(action, ev.ShowLine):
                self.lines.append(action.text)

    def _start(self, order: ev.StartWorker) -> None:
        spec, index = self._spec, order.worker
        worker_spec = messages.WorkerSpec(
            config=spec.config,
            run_dir=self.run_dir,
            dataset=self._dataset,
            index=index,
            run=spec.run,
            settings=spec.settings,
            bind=f"sim://{index}",
            resume=spec.resume or order.again,
            endpoints=order.endpoints,
            restarted=order.again and order.endpoints is not None,
            returns_in=order.returns_in,
        )
        self._running.add(index)
        self.workers[index] = SimWorker(
            worker_spec, self._environment, lambda message: self._reports.append((index, message))
        )
        self._feed(ev.Started(index))
        if order.endpoints is not None:
            self.workers[index].begin(order.endpoints)
