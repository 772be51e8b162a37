"""Simulated swarm: all processes of a run in one, driven by the same loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, TransportError
from p2pfl.faults import AttackFault, Partition
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.builder import assemble
from p2pfl.node.loop import Driver
from p2pfl.node.ports import Ports
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.paths import peer_dir
from p2pfl.run.settings import fault_script, resolve
from p2pfl.sim.clock import VirtualClock
from p2pfl.sim.compute import VirtualCompute
from p2pfl.sim.network import LinkSpeed, VirtualNetwork
from p2pfl.topology import Topology


@dataclass
class SimReporter:
    """Reporter of one simulated process, which keeps reports in memory."""

    sent: list[messages.FromWorker] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def send(self, message: messages.FromWorker) -> None:
        self.sent.append(message)

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str, matters: bool = True) -> None:
        self.lines.append(text)
        if matters:
            self.sent.append(messages.Warned(text))


@dataclass
class SimNode:
    """One simulated process of a run."""

    index: int
    driver: Driver
    compute: VirtualCompute
    reporter: SimReporter


class Simulation:
    """Swarm on virtual time.

    `run` runs it to its end; `step` lets one process take a turn.

    Training is real, on this process's CPU, so that a synchronous run ends with the same bits as on real processes
    with the same settings and thread count. Only time and network are virtual: a round's training takes
    `train_seconds`, messages travel with `speed`.

    Raises ConfigError for settings that no run could be started with, and for faults that need real processes or links
    (kill, pause, delay, drop, corrupt).
    """

    def __init__(
        self,
        topology: Topology,
        config: RunConfig,
        *,
        speed: LinkSpeed | None = None,
        train_seconds: float = 1.0,
        resume: Path | None = None,
    ) -> None:
        """`resume`: run directory of a simulated run to continue, with these settings."""
        self.clock = VirtualClock()
        self.network = VirtualNetwork(self.clock, speed, config.exchange.grace_timeout)
        config = resolve(config, topology, processes=1)
        _check_faults(config, topology)
        self.run_dir = create_run_dir(topology, config) if resume is None else resume
        self._topology, self._config = topology, config
        self._fingerprint = run_fingerprint(assign_roles(config, topology), config)
        self._dataset = data.prepare(config.data.dataset, config.data.data_dir, lambda *_: None)
        self.nodes = [self._node(index, train_seconds, resume is not None) for index in range(topology.n)]
        for node in self.nodes:
            node.driver.start()

    def run(self) -> None:
        """Run all processes to their end. Raises the first error of one of them."""
        while self.step():
            pass

    def step(self) -> bool:
        """Let the process that is due next take a turn; False when all have ended.

        Of several the one with the lowest index is first.
        """
        due = [(self._due(node), node.index) for node in self.nodes if not node.driver.has_ended]
        if not due:
            return False
        when, index = min(due)
        if math.isinf(when):
            raise TransportError("no process of the simulated swarm has anything to wait for")
        self.clock.advance(when)
        node = self.nodes[index]
        node.driver.turn()
        if node.driver.has_ended:
            node.driver.close()
        return True

    def _due(self, node: SimNode) -> float:
        now = self.clock.now()
        event = min(self.network.next_arrival(node.index), node.compute.next_result)
        return max(now, min(event, node.driver.deadline))

    def _node(self, index: int, train_seconds: float, resume: bool) -> SimNode:
        folder = peer_dir(self.run_dir, self._topology, index)
        reporter = SimReporter()
        spec = messages.WorkerSpec(
            config=self._config,
            run_dir=self.run_dir,
            dataset=self._dataset,
            index=index,
            run=self._fingerprint,
            settings=self._fingerprint,
            bind=f"sim://{index}",
            resume=resume,
        )
        parts = assemble(spec, self._topology, folder, reporter.send)
        compute = VirtualCompute(self.clock, train_seconds)
        ports = Ports(self.clock, compute, self.network.transport(index), parts.recorder, reporter)
        return SimNode(index, Driver(parts.logic, parts.trainer, ports), compute, reporter)


def _check_faults(config: RunConfig, topology: Topology) -> None:
    for number, fault in enumerate(fault_script(config, topology).faults, 1):
        if not isinstance(fault, AttackFault | Partition):
            kind = type(fault).__name__.lower()
            raise ConfigError(
                f"--faults {config.exchange.faults}: fault {number} ({kind}): needs real processes and links; "
                "the simulator plays attack and partition"
            )
