"""Ray launcher: workers as actors on the nodes of a Ray cluster.

Only orders and reports go through Ray. Weights travel from peer to peer over ZeroMQ, encrypted with keys that the
actors make for themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pfl.faults.injector import fired
from p2pfl.launch import ray_cluster
from p2pfl.launch.base import LaunchSpec, OnReport, Outcome
from p2pfl.launch.events import StartWorker
from p2pfl.launch.fork_server import ForkServer, fork_server
from p2pfl.launch.loop import supervise
from p2pfl.launch.observers import Observer
from p2pfl.launch.prepare import prepare_data
from p2pfl.launch.ray_actor import Answer, Place, WorkerActor, send_signal, surroundings_of
from p2pfl.launch.ray_files import input_files
from p2pfl.node import messages
from p2pfl.run.mirror import Incoming
from p2pfl.run.paths import FIRED_FILE
from p2pfl.util.signals import interruptible, shielded

_ANSWER_SECONDS = 10.0  # after which an actor without reports answers all the same
_CALLS = 4  # of an actor at once: one waits for reports, the others bring orders
_PLACED_SECONDS = 30.0  # for an actor's first answer, before the user is told that it waits for room
_LOOK_SECONDS = 0.2  # between two looks at a call, while the end of an actor is waited for


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


class RayWorker:
    """Handle of an actor that runs a worker."""

    def __init__(self, index: int, actor: Any, spec: LaunchSpec, collecting: Callable[[str], None]) -> None:
        """`collecting`: called with the node's address where its files are collected."""
        self.index = index
        self._spec = spec
        self._collecting = collecting
        self._files: Incoming | None = None  # for those of a node that does not share the run directory
        self.answer: Any = actor.take.remote(_ANSWER_SECONDS)  # the call that brings the next reports
        self._actor = actor
        self._fired_file = spec.peer_dir(index) / FIRED_FILE
        self._faults_before = len(fired(self._fired_file))
        self._place: Place | None = None
        self._status: int | None = None
        self._end = ""  # in words, where the actor has died
        self.is_closed = False
        self.expected_by = time.monotonic() + _PLACED_SECONDS  # to answer for the first time

    def send(self, order: messages.ToWorker) -> None:
        """Give the worker an order; nothing happens if its actor has died."""
        self._actor.obey.remote(messages.encode(order))

    def signal(self, number: signal.Signals) -> None:
        """Send the actor's process a signal, from a task on its node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._place is not None and not self.has_ended():
            there = NodeAffinitySchedulingStrategy(self._place.node, soft=False)
            task = ray.remote(send_signal).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            task.remote(self._place.pid, int(number))

    def kill(self) -> None:
        """End the actor at once."""
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # the cluster itself may be gone
            ray.kill(self._actor)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the actor; its reports until then are thrown away."""
        import ray

        deadline = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < deadline:
            if ray.wait([self.answer], timeout=_LOOK_SECONDS)[0]:
                self.read(lambda *_: None)
        return self.has_ended()

    def has_ended(self) -> bool:
        """Whether the worker's last report has come, or its actor has died."""
        return self._status is not None or bool(self._end)

    def new_faults(self) -> list[int]:
        """Numbers of the faults that it recorded as carried out. Raises UnreadableError."""
        return fired(self._fired_file)[self._faults_before :]

    @property
    def exitcode(self) -> int | None:
        """The worker's exit status; None where its actor has died."""
        return self._status

    def exit_text(self) -> str:
        """The end of the worker, in words."""
        return self._end or f"exit status {self._status}"

    def close(self) -> None:
        """End the actor's process, whose worker has ended, and so free its place."""
        self.kill()
        self.is_closed = True

    # For the launcher

    def read(self, report: OnReport) -> None:
        """Pass on the reports of an answer, and ask for the next."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError

        self.expected_by = math.inf
        try:
            answer: Answer = ray.get(self.answer)
            self._place = answer.place
            if answer.wants_files and self._files is None:
                self._supply(answer.place.host)
        except RayActorError as error:
            lost = self._place is not None and ray_cluster.is_lost(self._place.node)
            if isinstance(error, ActorUnavailableError) and not lost:
                self._ask()  # it may answer again; if not, the next error is final
            else:
                self._end = self._death(error, lost)
            return
        for piece in answer.pieces:
            assert self._files is not None
            self._files.put(piece)
        for encoded in answer.reports:
            report(self.index, messages.decode_from_worker(encoded))
        self._status = answer.status
        if answer.status is None:
            self._ask()

    def _supply(self, host: str) -> None:
        """Send the worker the files that it reads, and collect its own from now on."""
        import ray

        self._files = Incoming(self._spec.run_dir)
        self._files.forget_parts(self._spec.peer_dir(self.index))
        self._collecting(host)
        files = input_files(self._spec, self.index)
        while pieces := files.take():
            ray.get(self._actor.put.remote(pieces))  # in their order
        self._actor.put.remote([])

    def _ask(self) -> None:
        self.answer = self._actor.take.remote(_ANSWER_SECONDS)

    def _death(self, error: Exception, is_node_lost: bool) -> str:
        """Why the actor has died, in words."""
        where = "" if self._place is None else f" {self._place.host}"
        if is_node_lost:
            return f"its node{where} is lost"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if "creation task" in str(error):  # its class cannot be imported there, say
            return lines[-1][:300]
        return f"its process on node{where} was killed, perhaps out of memory"


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

    def prepare(self, observer: Observer) -> None:
        """Decode the data set, check the run, and reserve the places.

        Raises ConfigError, P2PFLError.
        """
        spec, options = self._spec, self._spec.config.launch
        self._say = observer.info
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
        )
        there = PlacementGroupSchedulingStrategy(self._group, index)
        actor = ray.remote(WorkerActor).options(
            num_cpus=options.cpus_per_peer,
            num_gpus=options.gpus_per_peer,
            max_restarts=0,  # the supervisor decides
            max_concurrency=_CALLS,
            scheduling_strategy=there,
        )
        started = actor.remote(worker_spec, surroundings_of(spec.run_dir))
        self._workers[index] = RayWorker(index, started, spec, self._say_collecting)
        return self._workers[index]

    def _say_collecting(self, host: str) -> None:
        if not self._is_collecting:
            self._is_collecting = True
            self._say(f"node {host} does not share {self._spec.run_dir}: the launcher collects its files there")

    def watch(self, seconds: float, report: OnReport) -> None:
        """Pass on the reports of each worker that has some; wait for the first so long."""
        import ray

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

    def close(self) -> None:
        """Give the places back."""
        from ray.util.placement_group import remove_placement_group

        if self._group is not None:
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                remove_placement_group(self._group)
            self._group = None
