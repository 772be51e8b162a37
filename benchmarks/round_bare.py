"""Round of a full mesh without p2pfl: bare sockets and averaging in place.

Training is the same, and chunks are raw and of 1 MiB. The figure is the CPU time that the traffic takes. It is measured
between trainings like p2pfl's, since traffic that finds its vectors and its code in the cache takes half as long.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.common import children, cpu_seconds, gather
from benchmarks.swarms import Swarm

SECONDS = 120.0  # that one answer may take


@dataclass(frozen=True)
class Bare:
    """Processes that each train a model and average it with all the others'."""

    links: Sequence[Connection]

    def wait(self) -> None:
        """Wait until all have imported their modules; once, before the first measurement."""
        gather(self.links, SECONDS)

    def cpu(self, swarm: Swarm, rounds: int) -> float:
        """CPU seconds a round a process beside training, in that full mesh."""
        links = self.links[: swarm.peers]
        with tempfile.TemporaryDirectory(prefix="p2pfl-") as folder:
            for link in links:
                link.send((folder, swarm, rounds))
            gather(links, SECONDS)  # all are bound
            for link in links:
                link.send("go")
            used = gather(links, SECONDS)
            for link in links:
                link.send("end")
            gather(links, SECONDS)
        return statistics.fmean(used)


@contextlib.contextmanager
def bare(most: int) -> Iterator[Bare]:
    """Bare processes for meshes of at most that size."""
    with children(_serve, [(me,) for me in range(most)]) as links:
        yield Bare(links)


def _serve(link: Connection, me: int) -> None:
    import torch

    torch.set_num_threads(1)
    link.send(("done", None))
    with contextlib.suppress(EOFError):
        while True:
            _mix(link, me, *link.recv())


def _mix(link: Connection, me: int, folder: str, swarm: Swarm, rounds: int) -> None:
    from benchmarks.exchange_bare import Mixer, Sockets
    from benchmarks.exchange_swarm import Learner

    learner = Learner(swarm.width, me, swarm.batch_size, swarm.precision)
    with Sockets(f"ipc://{folder}/{me}", me) as sockets:
        link.send(("done", None))
        link.recv()
        others = [other for other in range(swarm.peers) if other != me]
        sockets.connect({other: f"ipc://{folder}/{other}" for other in others})
        mixer = Mixer(sockets, learner.x, 1 / swarm.peers, dict.fromkeys(others, 1 / swarm.peers))
        mixer.mix()
        before, training = cpu_seconds(), 0.0
        for _ in range(rounds):
            began = time.thread_time()
            for _ in range(swarm.local_steps):
                learner.step()
            training += time.thread_time() - began
            mixer.mix()
        link.send(("done", (cpu_seconds() - before - training) / rounds))
        link.recv()
        link.send(("done", None))
