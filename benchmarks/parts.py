"""CPU time of a peer by part of its work, and how often its threads wait.

A part is what some functions use by themselves, without the other parts that they call, on whatever thread. Threads
that run none of them, and the launcher, are parts by name. Linux only.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

WAKE_UPS = "wake-ups, their number"
LAUNCHER = "launcher"
_KNOWN_THREADS = {"ZMQbg/IO/0": "socket thread", "ZMQbg/Reaper": "socket thread", "admission": "admission thread"}


class Parts:
    """Account of one process; `install` lets it follow the functions of a worker."""

    def __init__(self) -> None:
        self._spent: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # nanoseconds, by thread
        self._local = threading.local()
        self._followed: set[int] = set()  # native numbers of threads that run a part

    def follow(self, owner: Any, name: str, part: str) -> None:
        """Count what a function of a class or module, its `owner`, uses as `part`."""
        work = getattr(owner, name)

        @functools.wraps(work)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._counting(part):
                return work(*args, **kwargs)

        setattr(owner, name, counted)

    @contextlib.contextmanager
    def _counting(self, part: str) -> Any:
        local = self._local
        if not hasattr(local, "inner"):
            local.inner, local.spent = 0, self._spent[threading.current_thread().name]
            self._followed.add(threading.get_native_id())
        outer, local.inner = local.inner, 0
        began = time.thread_time_ns()
        try:
            yield
        finally:
            took = time.thread_time_ns() - began
            local.spent[part] += took - local.inner
            local.inner = outer + took

    def read(self) -> dict[str, float]:
        """CPU milliseconds so far by part, the launcher's too, and `WAKE_UPS`."""
        found: dict[str, float] = defaultdict(float)
        for spent in list(self._spent.values()):
            for part, nanoseconds in list(spent.items()):
                found[part] += nanoseconds / 1e6
        counted = sum(found.values())
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        for number, (name, used, waits) in _threads("self").items():
            found[WAKE_UPS] += waits
            if number in self._followed:
                found["rest of its threads"] += used
            else:
                known = names.get(number, "").partition(" ")[0] or name
                found[_KNOWN_THREADS.get(name, _KNOWN_THREADS.get(known, "other threads"))] += used
        found["rest of its threads"] -= counted
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid is not None:
            found[LAUNCHER] = sum(used for _, used, _ in _threads(str(parent.pid)).values())
        return dict(found)


def _threads(process: str) -> dict[int, tuple[str, float, int]]:
    """Name, CPU milliseconds and number of waits of each thread, by its number."""
    found = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            used = int((folder / "schedstat").read_text().split()[0]) / 1e6
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            found[int(folder.name)] = status["Name"].strip(), used, int(status["voluntary_ctxt_switches"])
    return found


def install() -> Parts:
    """Follow the functions of this worker."""
    from p2pfl.algorithms import dpsgd
    from p2pfl.data import Batches
    from p2pfl.model import sketches
    from p2pfl.node import loop, recorder, system
    from p2pfl.protocol import arrival, peer
    from p2pfl.training import step, trainer
    from p2pfl.transport import receiver, shared_memory, zeromq

    parts = Parts()
    follow = parts.follow
    follow(trainer.Trainer, "train", "round of training")
    follow(step.Step, "__call__", "forward and backward")
    follow(Batches, "batch", "batch")
    follow(trainer.Trainer, "_take_step", "optimizer")
    follow(trainer.Trainer, "move_to", "exchange: finish")
    follow(loop, "check_weights", "own weights finite")
    follow(sketches, "sketch", "sketch")
    follow(recorder.Recorder, "record", "record")
    follow(loop.Driver, "_record", "record")
    follow(system.LogReporter, "send", "reports")
    follow(system.LogReporter, "info", "log")
    follow(system.ThreadCompute, "submit", "hand-over")
    follow(loop.Driver, "turn", "turns of the loop")
    follow(zeromq.ZmqTransport, "poll", "poll")
    follow(receiver.Receiver, "receive", "receive")
    follow(zeromq.ZmqTransport, "send", "send")
    follow(shared_memory.SharedMemoryTransport, "poll", "shared memory")
    follow(shared_memory.SharedMemoryTransport, "send", "shared memory")
    follow(peer.Peer, "handle", "protocol")
    follow(arrival, "is_finite", "received values finite")
    follow(dpsgd.DPSGD, "accumulate", "fold")
    return parts
