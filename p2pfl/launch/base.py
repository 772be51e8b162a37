"""Contract of launchers: start, address, watch and stop the workers of a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from p2pfl.config import RunConfig
from p2pfl.faults import FaultScript
from p2pfl.launch.events import Ready, StartWorker
from p2pfl.launch.observers import Observer
from p2pfl.modes import Roles
from p2pfl.node.messages import FromWorker, ToWorker
from p2pfl.run.paths import peer_dir
from p2pfl.topology import Topology

OnReport = Callable[[int, FromWorker], None]
"""Called with a worker's number and its report; a worker in this process may report from any of its threads."""


class WorkerHandle(Protocol):
    """Handle of a started worker, in another process, in this one, or elsewhere."""

    def send(self, order: ToWorker) -> None:
        """Give the worker an order; nothing happens if it has ended."""

    def signal(self, number: signal.Signals) -> None:
        """Send the worker a signal; nothing happens if it has ended."""

    def kill(self) -> None:
        """End the worker at once."""

    def join(self, seconds: float) -> bool:
        """Wait for the end of the worker; False where it has not come by then."""

    def has_ended(self) -> bool:
        """Whether the worker has ended and all that it reported has been passed on."""

    def new_faults(self) -> Sequence[int]:
        """Numbers of the script's faults that the worker has carried out since its start."""

    @property
    def exitcode(self) -> int | None:
        """Exit status, or minus a signal's number; None where it runs, or is unknown."""

    def exit_text(self) -> str:
        """The end of the worker, in words."""

    def close(self) -> None:
        """Release the resources that watch the worker."""


class Launcher(Protocol):
    """Starts the workers of one run. Its methods are called from one thread."""

    def prepare(self, observer: Observer) -> None:
        """Prepare for all workers, such as by decoding the data set. Raises P2PFLError."""

    def address(self, worker: int) -> str:
        """Endpoint at which a worker is to listen."""

    def start(self, order: StartWorker) -> WorkerHandle:
        """Start a worker. Raises P2PFLError where there is no room for it."""

    def watch(self, seconds: float, report: OnReport) -> None:
        """Pass on the workers' reports.

        Returns when some have reported or ended, or after so many seconds. A launcher whose worker is this very process
        returns at the end of that. Raises LostLauncherError, once, where nothing can be started or watched any longer.
        """

    def close(self) -> None:
        """Remove the launcher's files of the run, once its workers have ended."""


@dataclass(frozen=True)
class LaunchSpec:
    """Specification of a launch: one worker for each process of its roles.

    `binds` are set where the topology file names the endpoints. `on_prepared` is called when all that can be checked
    before a worker starts has been: only then may a finished run be changed. `token` is the secret by which
    workers know each other; it is never written to a file.
    """

    roles: Roles
    config: RunConfig
    run_dir: Path
    run: str
    settings: str
    resume: bool = False
    binds: Sequence[str] | None = None
    link_delay: float = 0.0
    script: FaultScript = field(default_factory=FaultScript)
    token: str | None = field(default=None, repr=False)
    on_prepared: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def topology(self) -> Topology:
        """The topology, with a node for each worker."""
        return self.roles.topology

    def peer_dir(self, worker: int) -> Path:
        """The folder of a worker in the run directory."""
        return peer_dir(self.run_dir, self.topology, worker)

    def title(self, worker: int) -> str:
        """Title of a worker in messages: its role and its label."""
        if self.roles.coordinator is None:
            return f"peer {self.topology.names[worker]}"
        return "the coordinator" if worker == self.roles.coordinator else f"client {self.topology.names[worker]}"

    def forecast(self, ready: Ready) -> str:
        """One line about the rounds to come, as a worker that is ready knows them."""
        rounds, mixing_only = self.config.training.rounds, ready.consensus_rounds
        training = f"{rounds} round{'s' * (rounds > 1)} of training"
        if self.roles.coordinator is not None:
            centralized = self.config.centralized
            return f"{training}, each with {centralized.num_selected} of {centralized.num_clients} clients"
        if (steps := self.config.gossip.gossip_steps) > 1:
            training += f", each with {steps} exchanges"
        if not mixing_only:
            return training if self.roles.merge is None else f"{training}, and no final merge"
        sent = self.roles.vectors_in_merges(mixing_only) * ready.vector_bytes
        again = "; the second half merges re-estimated running statistics" if self.roles.merges > 1 else ""
        return f"{training}, then {mixing_only} of mixing only ({sent / 1e6:,.1f} MB), {self._shrink}{again}"

    @property
    def _shrink(self) -> str:
        if self.roles.merge is not None and self.roles.merge.is_exact:
            return "which give all peers the exact mean"
        return f"which shrink the peers' disagreement to {self.config.gossip.consensus_tolerance:g}"


@dataclass
class Outcome:
    """End of a launch, and its reason in one line.

    `lost` names workers that are gone for good, which a run may survive.
    `restarts`: how often each of those that died was started again. `resumable`: false where settings are to blame.
    `diverged`: it ended since the loss or the weights of a worker were no longer finite.
    """

    status: Literal["complete", "failed", "usage", "interrupted"] = "complete"
    reason: str = ""
    lost: list[str] = field(default_factory=list)
    first_loss: str = ""
    restarts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    resumable: bool = True
    diverged: bool = False

    def fail(
        self,
        reason: str,
        status: Literal["failed", "usage"] = "failed",
        *,
        resumable: bool = True,
        diverged: bool = False,
    ) -> None:
        """End the run; only the first reason counts."""
        if not self.reason:
            self.status, self.reason, self.resumable, self.diverged = status, reason, resumable, diverged
