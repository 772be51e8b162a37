"""Handle of a worker on a Ray cluster: orders, answers, and its end in words."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import Any

from p2pfl.errors import P2PFLError, one_line, unwritable
from p2pfl.faults.injector import fired
from p2pfl.launch import ray_cluster
from p2pfl.launch.base import LaunchSpec, OnReport
from p2pfl.launch.ray_actor import send_signal
from p2pfl.launch.ray_files import Supply
from p2pfl.launch.ray_head import HeadWatch
from p2pfl.launch.ray_outbox import Answer, Place
from p2pfl.node import messages
from p2pfl.run.mirror import Incoming
from p2pfl.run.paths import FIRED_FILE

ORDERS = "orders"  # the group of an actor's calls that bring orders and files: one at a time, in their order
_ANSWER_SECONDS = 10.0  # after which an actor without reports answers all the same
_PLACED_SECONDS = 30.0  # for an actor's first answer, before the user is told that it waits for room
_LOOK_SECONDS = 0.2  # between two looks at a call, while the end of an actor is waited for


class RayWorker:
    """Handle of an actor that runs a worker."""

    def __init__(
        self, index: int, actor: Any, spec: LaunchSpec, collecting: Callable[[str], None], head: HeadWatch
    ) -> None:
        """`collecting`: called with the node's address where its files are collected."""
        self.index = index
        self._head = head
        self._spec = spec
        self._collecting = collecting
        self.answer: Any  # the call that brings the next reports
        self._files: Incoming | None = None  # for those of a node that does not share the run directory
        self._supply = Supply(spec, index)
        self._actor = actor
        self._answers = 0  # that have come
        self._ask()
        self._fired_file = spec.peer_dir(index) / FIRED_FILE
        self._faults_before = len(fired(self._fired_file))
        self._place: Place | None = None
        self._status: int | None = None
        self._end = ""  # in words, where the actor has died
        self.is_closed = False
        self.expected_by = time.monotonic() + _PLACED_SECONDS  # to answer for the first time

    def send(self, order: messages.ToWorker) -> None:
        """Give the worker an order; nothing happens if its actor has died."""
        self._actor.obey.options(concurrency_group=ORDERS).remote(messages.encode(order))

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
                try:
                    self.read(lambda *_: None)
                except P2PFLError:  # its files are given up, too
                    break
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
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        self.expected_by = math.inf
        try:
            answer: Answer = ray.get(self.answer)
        except RayActorError as error:
            if self._head.is_silent:
                self._wait_for_head()
                return
            lost = self._place is not None and ray_cluster.is_lost(self._place.node)
            if isinstance(error, ActorUnavailableError) and not lost:
                self._ask()  # for the same answer: it may come now; if not, the next error is final
            else:
                self._end = self._death(error, lost)
            return
        except RayError as error:  # of the call itself, such as of a disk that cannot be read
            self.kill()
            self._end = f"its reports cannot be had: {one_line(error)[:300]}"
            return
        self._place = answer.place
        self._answers += 1
        if answer.wants_files is not None:
            self._send_files(answer.wants_files, answer.place.host)
        self._collect(answer, report)
        for encoded in answer.reports:
            report(self.index, messages.decode_from_worker(encoded))
        self._status = answer.status
        if answer.status is None:
            self._ask()

    def _wait_for_head(self) -> None:
        """Call again for the answer that did not come, unless the head is lost.

        The head would know why it has not come.
        """
        if self._head.is_lost:
            self._end = "its cluster is lost"
        else:
            time.sleep(_LOOK_SECONDS)
            self._ask()

    def _send_files(self, number: int, host: str) -> None:
        """Send the worker a batch of the files that it reads.

        Its own are collected from now on. Nothing is waited for: its next answers say what has come.
        """
        if self._files is None:
            self._files = Incoming(self._spec.run_dir)
            self._collecting(host)
        self._actor.put.options(concurrency_group=ORDERS).remote(number, self._supply.batch(number))

    def _collect(self, answer: Answer, report: OnReport) -> None:
        """Write what the worker has written.

        Raises P2PFLError where that is not possible.
        """
        for piece in answer.pieces:
            assert self._files is not None
            try:
                self._files.put(piece)
            except OSError as error:
                raise P2PFLError(unwritable(self._spec.run_dir / piece.path, error)) from None
        if answer.pieces:
            report(self.index, messages.FilesCollected(are_last=answer.is_over))

    def _ask(self) -> None:
        """Call for the next answer, or for the same one again."""
        self.answer = self._actor.take.remote(self._answers, _ANSWER_SECONDS)

    def _death(self, error: Exception, is_node_lost: bool) -> str:
        """Why the actor has died, in words."""
        where = "" if self._place is None else f" {self._place.host}"
        if is_node_lost:
            return f"its node{where} is lost"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if "creation task" in str(error):  # its class cannot be imported there, say
            return lines[-1][:300]
        return f"its process on node{where} was killed, perhaps out of memory"
