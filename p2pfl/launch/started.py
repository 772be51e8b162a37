"""A launch under way: what was asked for, the workers started so far, and what has come of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from p2pfl.config import RunConfig
from p2pfl.errors import not_imported
from p2pfl.faults import FaultScript
from p2pfl.faults.injector import fired
from p2pfl.launch.child import Child
from p2pfl.launch.observers import Observer
from p2pfl.launch.server import ForkServer
from p2pfl.node import messages
from p2pfl.roles import Cast
from p2pfl.run.paths import FIRED_FILE, peer_dir
from p2pfl.topology import Topology
from p2pfl.util.signals import Interrupts


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
    token: str | None = field(default=None, repr=False)  # by which workers know each other; never written anywhere

    @property
    def topology(self) -> Topology:
        return self.cast.topology


@dataclass
class Outcome:
    """How it ended. `reason` is one line; `lost` are those that died or failed for good, which a run may survive.

    `restarts`: how often each of those that died was started again. `resumable`: not where settings are to blame.
    """

    status: Literal["complete", "failed", "usage", "interrupted"] = "complete"
    reason: str = ""
    lost: list[str] = field(default_factory=list)
    first_loss: str = ""
    restarts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    resumable: bool = True

    def fail(self, reason: str, status: Literal["failed", "usage"] = "failed", resumable: bool = True) -> None:
        """End the run; what ended it first is what counts."""
        if not self.reason:
            self.status, self.reason, self.resumable = status, reason, resumable


@dataclass
class Worker:
    index: int
    name: str
    process: Child
    link: Connection | None
    endpoint: str | None = None
    lost_weights: bool = False  # it waits for its neighbors'
    done_since: float | None = None
    heard: float = 0.0  # when it last reported anything
    failure: str = ""  # why it ended, in its own words
    usage: bool = False
    resumable: bool = True  # as far as its failure goes
    fired: int = 0  # faults that had been carried out on it before it was started

    @property
    def done(self) -> bool:
        return self.done_since is not None


@dataclass
class Run:
    """A launch under way. `begun`: everybody was ready, and has been told where its neighbors are."""

    plan: Launch
    observer: Observer
    interrupts: Interrupts
    server: ForkServer
    sockets: Path
    outcome: Outcome
    workers: list[Worker] = field(default_factory=list)
    dataset: Path = Path()
    begun: bool = False

    def ensure_sockets(self) -> None:
        """Make the folder of sockets again if something cleans TMPDIR; peers bind there again. Raises ConfigError."""
        if self.plan.binds is None and self.plan.config.exchange.transport != "tcp":
            self.server.folder.ensure_subfolder(self.sockets)

    def neighbors_of(self, index: int) -> dict[int, str]:
        """Where those neighbors of a worker are that are not gone for good and have not finished."""
        links = sorted(self.plan.cast.links[index])
        here = [self.workers[peer] for peer in links]
        return {w.index: str(w.endpoint) for w in here if not w.done and w.name not in self.outcome.lost}


def start_worker(run: Run, index: int, again: bool = False, returns_in: int | None = None) -> Worker:
    """Start one. `again`: it died while others may be at work. `returns_in`: the round in which it is to be back.

    Raises P2PFLError where the system has no room for it.
    """
    plan = run.plan
    if again and run.workers[index].endpoint is not None:
        bind = str(run.workers[index].endpoint)  # where the others look for it
    elif plan.binds is not None:
        bind = plan.binds[index]
    else:
        bind = "tcp://127.0.0.1:*" if plan.config.exchange.transport == "tcp" else f"ipc://{run.sockets}/{index}"
    run.ensure_sockets()
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
        token=plan.token,
        temporary=run.server.folder.path,
    )
    name = plan.topology.names[index]
    done = fired(peer_dir(plan.run_dir, plan.topology, index) / FIRED_FILE)
    process, link = run.server.start(f"p2pfl-{name}", _run_worker, spec)
    return Worker(index, name, process, link, heard=time.monotonic(), fired=len(done))


def _run_worker(spec: messages.WorkerSpec, link: Connection) -> None:
    try:
        from p2pfl.node import worker as process  # not above: it imports torch, which a launcher does not need
    except Exception as error:  # such as of a library for which there is no memory
        link.send_bytes(messages.encode(messages.failed(not_imported(error))))
        sys.exit(1)
    process.main(spec, link)


def called(plan: Launch, worker: Worker) -> str:
    """What a user knows it as."""
    if plan.cast.coordinator is None:
        return f"peer {worker.name}"
    return "the coordinator" if worker.index == plan.cast.coordinator else f"client {worker.name}"
