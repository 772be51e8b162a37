"""Ray launcher: workers as actors on the nodes of a Ray cluster.

Only orders and reports go through Ray. Weights travel from peer to peer over ZeroMQ, encrypted with keys that the
actors make for themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pfl.errors import LostLauncherError
from p2pfl.launch import ray_cluster
from p2pfl.launch.base import LaunchSpec, OnReport, Outcome
from p2pfl.launch.events import StartWorker
from p2pfl.launch.fork_server import ForkServer, fork_server
from p2pfl.launch.loop import supervise
from p2pfl.launch.observers import Observer
from p2pfl.launch.prepare import prepare_data
from p2pfl.launch.ray_actor import WorkerActor, surroundings_of
from p2pfl.launch.ray_head import LOST_SECONDS, HeadWatch
from p2pfl.launch.ray_worker import ORDERS, RayWorker
from p2pfl.node import messages
from p2pfl.run.mirror import Incoming
from p2pfl.run.paths import peer_dirs
from p2pfl.run.recovery import newest_round
from p2pfl.util.signals import interruptible, shielded

_CALLS = 3  # of an actor at once that wait for reports: one, and such as are asked for again


def launch(spec: LaunchSpec, observers: Sequence[Observer]) -> Outcome:
    """Run a launch on a Ray cluster to its end. Ctrl-C and SIGTERM end it early.

    Raises ConfigError for unusable data, an unusable cluster, or one that is too small. Leaves no actor behind, and
    ends a cluster that it has started.
    """
    options, processes = spec.config.launch, spec.topology.n
    with (
        interruptible(),
        fork_server() as server,
        ray_cluster.connected(options, processes, server.folder.path),
    ):
        launcher = RayLauncher(spec, server)
        try:
            return supervise(spec, launcher, observers)
        finally:
            launcher.close()


class RayLauncher:
    """Starts workers as actors in the places that are reserved for them."""

    def __init__(self, spec: LaunchSpec, server: ForkServer) -> None:
        self._spec = spec
        self._server = server
        self._dataset = Path()
        self._group: Any = None
        self._workers: dict[int, RayWorker] = {}
        self._say: Callable[[str], None] = lambda text: None
        self._is_collecting = False
        self._newest: int | None = None
        self._head: HeadWatch | None = None
        self._is_lost = False

    def prepare(self, observer: Observer) -> None:
        """Decode the data set, check the run, and reserve the places.

        Raises ConfigError, P2PFLError.
        """
        spec, options = self._spec, self._spec.config.launch
        self._say = observer.info
        self._head = HeadWatch(ray_cluster.head_address())
        ray_cluster.check_room(options, spec.topology.n)
        self._dataset = prepare_data(
            spec.config, spec.roles, spec.run_dir, observer, self._server, begins=not spec.resume
        )
        seconds = spec.config.exchange.start_timeout
        self._group = ray_cluster.reserve(options, spec.topology.n, seconds, observer.info)
        observer.info(ray_cluster.describe_places(self._group))

    def address(self, worker: int) -> str:
        """Endpoint at which a worker is to listen: a free port of its node."""
        return "tcp://*:*"

    def start(self, order: StartWorker) -> RayWorker:
        """Start an actor in its place, which is another one if its node is lost."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        spec, index, options = self._spec, order.worker, self._spec.config.launch
        worker_spec = messages.WorkerSpec(
            config=spec.config,
            run_dir=Path(os.path.abspath(spec.run_dir)),
            dataset=self._dataset,
            index=index,
            run=spec.run,
            settings=spec.settings,
            bind=self.address(index),
            resume=spec.resume or order.again,
            link_delay=spec.link_delay,
            endpoints=order.endpoints,
            new_endpoint=True,
            restarted=order.again and order.endpoints is not None,
            returns_in=order.returns_in,
            token=spec.token,
            newest_round=self._newest_round(),
        )
        there = PlacementGroupSchedulingStrategy(self._group, index)
        actor = ray.remote(concurrency_groups={ORDERS: 1})(WorkerActor).options(
            num_cpus=options.cpus_per_peer,
            num_gpus=options.gpus_per_peer,
            max_restarts=0,  # the supervisor decides
            max_concurrency=_CALLS,
            scheduling_strategy=there,
        )
        Incoming(spec.run_dir).forget_parts(spec.peer_dir(index))  # of files whose node was lost
        started = actor.remote(worker_spec, surroundings_of(spec.run_dir))
        assert self._head is not None
        self._workers[index] = RayWorker(index, started, spec, self._say_collecting, self._head)
        return self._workers[index]

    def _newest_round(self) -> int:
        """Newest round that any process had saved when the first one was started."""
        if self._newest is None:
            folders = peer_dirs(self._spec.run_dir, self._spec.topology) if self._spec.resume else []
            self._newest = newest_round(folders)
        return self._newest

    def _say_collecting(self, host: str) -> None:
        if not self._is_collecting:
            self._is_collecting = True
            self._say(f"node {host} does not share {self._spec.run_dir}: the launcher collects its files there")

    def watch(self, seconds: float, report: OnReport) -> None:
        """Pass on the reports of each worker that has some; wait for the first so long.

        Raises LostLauncherError, once, where the cluster's head is lost.
        """
        import ray

        self._check_head()
        alive = [worker for worker in self._workers.values() if not worker.is_closed and not worker.has_ended()]
        waiting = {worker.answer: worker for worker in alive}
        if not waiting:
            time.sleep(seconds)
            return
        for worker in alive:
            if time.monotonic() > worker.expected_by:
                worker.expected_by = math.inf
                self._say(f"{self._spec.title(worker.index)} waits for room on the cluster, or for a slow node")
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=seconds)
        more, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for answer in {*ready, *more}:
            with shielded():  # an answer that is lost would lose its reports
                waiting[answer].read(report)

    def _check_head(self) -> None:
        head = self._head
        if head is None or self._is_lost or not head.is_lost:
            return
        self._is_lost = True
        raise LostLauncherError(
            f"the head of the Ray cluster, {head.address}, has not answered for {LOST_SECONDS:.0f} s; everything until "
            "then is saved"
        )

    def close(self) -> None:
        """Give the places back."""
        from ray.util.placement_group import remove_placement_group

        if self._head is not None:
            self._head.close()
            if self._head.is_silent:  # it would be waited for
                return
        if self._group is not None:
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                remove_placement_group(self._group)
            self._group = None
