"""Simulated worker: a process of a run on virtual time, with the real loop."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from p2pfl.errors import ConfigError, Interrupted, P2PFLError
from p2pfl.faults import Kill, Pause
from p2pfl.faults.injector import FaultInjector
from p2pfl.node import messages
from p2pfl.node.builder import Assembly, assemble
from p2pfl.node.control import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from p2pfl.node.loop import Driver
from p2pfl.node.ports import Ports
from p2pfl.payload import ITEM_BYTES
from p2pfl.run.paths import FIRED_FILE, peer_dir
from p2pfl.sim.clock import VirtualClock
from p2pfl.sim.compute import Killed, VirtualCompute
from p2pfl.sim.network import VirtualNetwork
from p2pfl.topology import Topology
from p2pfl.transport import Conditioner, ScriptedFaults, Transport


@dataclass(frozen=True)
class Environment:
    """Surroundings of all workers of a simulation."""

    clock: VirtualClock
    network: VirtualNetwork
    topology: Topology
    train_seconds: float
    disk_seconds: float = 0.0


@dataclass
class SimReporter:
    """Reporter of one simulated process, which keeps the lines of its log in memory."""

    send: messages.Report
    lines: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str, matters: bool = True) -> None:
        self.lines.append(text)
        if matters:
            self.send(messages.Warned(text))


@dataclass
class _Parts:
    """Everything that a worker has once it is assembled."""

    driver: Driver
    compute: VirtualCompute
    transport: Transport
    conditioner: Conditioner | None
    assembly: Assembly


class SimWorker:
    """One simulated process, from its specification to its end.

    The fault script, or a caller, can kill it, or pause and wake it; a process that is started again is another worker.
    """

    def __init__(self, spec: messages.WorkerSpec, environment: Environment, report: messages.Report) -> None:
        """Load data and model, and report that it is ready, as a real worker does."""
        self.index = spec.index
        self.exitcode: int | None = None
        self.holds_model = False
        self.reporter = SimReporter(report)
        self.injected: list[Kill | Pause] = []  # faults of the script that it has carried out
        self._spec = spec
        self._environment = environment
        self._pause_at = math.inf
        self._parts: _Parts | None = None
        with self._until_its_end():
            self._parts = self._assemble()
            self._report_ready(self._parts)

    def begin(self, endpoints: Mapping[int, str]) -> None:
        """Connect to the neighbors, and begin the first round."""
        if self._parts is None:
            return
        context = self._parts.assembly.logic.context
        with self._until_its_end():
            self._parts.transport.connect({n: endpoints[n] for n in sorted(context.links - context.absent)}, 0)
            self._parts.driver.start()

    def turn(self) -> None:
        """Let the process take one turn of its loop."""
        assert self._parts is not None
        with self._until_its_end():
            self._parts.driver.turn()
            if self._parts.driver.has_ended:
                self.reporter.send(messages.Done(dict(self._parts.assembly.logic.refused)))
                self._end(EXIT_OK)

    @property
    def due(self) -> float:
        """Time of its next turn; infinity while it waits or is paused, or if it has ended."""
        if self._parts is None or self.exitcode is not None:
            return math.inf
        parts, now = self._parts, self._environment.clock.now()
        delayed = math.inf if parts.conditioner is None else parts.conditioner.next_due
        event = min(self._environment.network.next_event(self.index), parts.compute.next_result, delayed)
        when = max(now, min(event, parts.driver.deadline))
        return when if when < self._pause_at else math.inf

    # From outside

    @property
    def waits_for_disk(self) -> bool:
        """Whether its newest checkpoint would not outlast a power cut."""
        return self._parts is not None and self._parts.compute.is_behind

    @property
    def is_paused(self) -> bool:
        """Whether it does nothing until it is woken."""
        return self._environment.clock.now() >= self._pause_at

    def pause(self, after: float = 0.0) -> None:
        """Pause it, after so many seconds."""
        self._pause_at = self._environment.clock.now() + after

    def wake(self) -> None:
        """Let it continue where it was paused; no effect on one that is awake."""
        if self.is_paused and self._parts is not None:
            self._parts.compute.postpone(self._environment.clock.now() - self._pause_at)
            self._pause_at = math.inf
            self._environment.network.release(self.index)

    def kill(self) -> None:
        """End it at once, without a message."""
        self._end(-signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(EXIT_INTERRUPTED)

    @property
    def exit_text(self) -> str:
        """The end of the process, in words."""
        is_killed = self.exitcode == -signal.SIGKILL
        return "killed by SIGKILL" if is_killed else f"exit status {self.exitcode}"

    # Inside

    def _assemble(self) -> _Parts:
        spec, environment = self._spec, self._environment
        folder = peer_dir(spec.run_dir, environment.topology, spec.index)
        assembly = assemble(spec, environment.topology, folder, self.reporter.send, lambda: self.holds_model)
        transport: Transport = environment.network.transport(spec.index, lambda: self.is_paused)
        conditioner = injector = None
        if assembly.script.faults:
            logic = assembly.logic
            faults = ScriptedFaults(assembly.script, spec.index, lambda: logic.context.shown(logic.round))
            transport = conditioner = Conditioner(transport, faults, environment.clock.now)
            injector = FaultInjector(assembly.script, spec.index, folder / FIRED_FILE, self._inject)
        compute = VirtualCompute(environment.clock, environment.train_seconds, environment.disk_seconds)
        ports = Ports(environment.clock, compute, transport, assembly.recorder, self.reporter)
        driver = Driver(assembly.logic, assembly.trainer, ports, injector=injector)
        return _Parts(driver, compute, transport, conditioner, assembly)

    def _report_ready(self, parts: _Parts) -> None:
        trainer, context = parts.assembly.trainer, parts.assembly.logic.context
        self.reporter.send(
            messages.Ready(
                endpoint=parts.transport.endpoint,
                device=str(trainer.device),
                round=context.shown(context.first_round),
                steps=parts.assembly.steps,
                vector_bytes=trainer.layout.size * ITEM_BYTES["fp32"],
                lost=context.has_lost_weights,
                consensus_rounds=context.consensus_rounds,
            )
        )

    def _inject(self, fault: Kill | Pause) -> None:
        """Carry out a fault of the script: at half the training's time, or at once."""
        self.injected.append(fault)
        after = self._environment.train_seconds / 2 if fault.at == "train" else 0.0
        if isinstance(fault, Kill):
            raise Killed(after)
        self.pause(after)

    @contextmanager
    def _until_its_end(self) -> Iterator[None]:
        """End with the status that a real worker has after the same error."""
        try:
            yield
        except Killed:
            self.kill()
        except Interrupted:
            self.stop()
        except P2PFLError as error:
            self.reporter.send(messages.failed(error))
            self._end(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)

    def _end(self, status: int) -> None:
        if self.exitcode is None:
            self.exitcode = status
            if self._parts is not None:
                self._parts.driver.close()
            self._environment.network.remove(self.index)
