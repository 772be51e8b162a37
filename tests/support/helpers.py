"""Helpers of several tests: networks with weights, data sets of random images."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import torch

from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.config import RunConfig
from p2pfl.data import Dataset
from p2pfl.payload import Payload
from p2pfl.topology import (
    NeighborhoodSchedule,
    Topology,
    build_topology,
    make_topology,
    mixing_matrix,
    neighborhood,
)

CPU = torch.device("cpu")
THOROUGHNESS = int(os.environ.get("P2PFL_EXAMPLES", "1"))  # of randomized tests: `make soak` runs many more examples


def matrix(kind: str, n: int) -> np.ndarray:
    """Mixing matrix (n, n) of a generated topology; uniform weights where directed."""
    topology = make_topology(kind, n)
    return mixing_matrix(topology, "uniform" if topology.directed else "metropolis-hastings")


def ring_with_chord(n: int) -> Topology:
    """A directed ring with one more edge, so that its degrees are not equal."""
    graph = nx.DiGraph((i, (i + 1) % n) for i in range(n))
    graph.add_edge(0, n // 2)
    return build_topology(graph, name=f"chord-{n}", source="chord")


def schedules_of(w: np.ndarray) -> list[NeighborhoodSchedule]:
    """For each peer its neighborhood by round.

    w is (n, n), or (period, n, n) on a schedule.
    """
    matrices = w if w.ndim == 3 else w[None]
    found = [[neighborhood(one, peer) for one in matrices] for peer in range(len(matrices[0]))]
    return [lambda round, mine=mine: mine[(round - 1) % len(mine)] for mine in found]  # type: ignore[misc]


def random_vectors(n: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for _ in range(n)]


@dataclass
class Driven:
    """One peer's algorithm and its state, driven directly, without a peer or messages."""

    algorithm: Algorithm
    schedule: NeighborhoodSchedule
    state: object

    def outgoing(self, round: int) -> dict[int, Payload]:
        return dict(self.algorithm.outgoing(self.state, self.context(round)))

    def accumulate(self, sender: int, part: Payload) -> None:
        self.algorithm.accumulate(self.state, sender, part)

    def finish(self, round: int) -> torch.Tensor:
        return self.algorithm.finish(self.state, self.context(round))

    def context(self, round: int) -> RoundContext:
        return RoundContext(round, self.schedule(round))

    def mix(self, sent: list[dict[int, Payload]], round: int) -> torch.Tensor:
        """Everything after `outgoing`: vectors in peer order, then finish."""
        me = self.schedule(round).me
        for sender in sorted([*self.schedule(round).incoming, me]):
            self.accumulate(sender, self.algorithm.own(self.state) if sender == me else sent[sender][me])
        return self.finish(round)


def driven(algorithm: Algorithm, w: np.ndarray, vectors: list[torch.Tensor]) -> list[Driven]:
    """All peers of a network with mixing matrix w, each at its vector."""
    peers = zip(schedules_of(w), vectors, strict=True)
    return [Driven(algorithm, schedule, algorithm.init(x, schedule)) for schedule, x in peers]


def exchange(peers: list[Driven], round: int, vectors: list[torch.Tensor]) -> None:
    """One round's exchange among all peers.

    `vectors` gets each peer's x, which may be another tensor than before.
    """
    mix(peers, [peer.outgoing(round) for peer in peers], round, vectors)


def mix(peers: list[Driven], sent: list[dict[int, Payload]], round: int, vectors: list[torch.Tensor]) -> None:
    vectors[:] = [peer.mix(sent, round) for peer in peers]


def disagreement(x: np.ndarray) -> float:
    """sqrt(mean_i ‖x_i − x̄‖²) of (n, size) vectors."""
    return float(np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()))


def images(train: int = 48, test: int = 20, augment: bool = True, classes: int = 4) -> Dataset:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
        return pixels, torch.randint(0, classes, (count,), generator=generator)

    (train_images, train_labels), (test_images, test_labels) = draw(train), draw(test)
    return Dataset(
        name="random",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple("abcdefgh"[:classes]),
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        augment=augment,
    )


def token_file(folder: Path) -> str:
    """A file with a token for peers that are started one by one."""
    path = folder / "token"
    path.write_text(secrets.token_hex(32) + "\n")
    path.chmod(0o600)
    return str(path)


def small_config(**options: object) -> RunConfig:
    """Few steps of the smallest VGG."""
    defaults = {"model": "vgg11", "width": 0.0625, "rounds": 3, "local_steps": 2, "batch_size": 8, "lr": 0.05}
    return RunConfig.of(**{**defaults, **options})


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at.

    Below those that the system gives away by itself (from 32768 on, or 49152): otherwise a connection or a socket of
    another test could get one of them before the test's own process opens it.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(12_000)  # not from `random`, whose seed tests in other processes may share
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in ports:
                ports.append(port)
    return ports


def lossy_exchange(peers: list[Driven], number: int, lost: set[tuple[int, int]], unsure: set[tuple[int, int]]) -> None:
    """A round in which some payloads (from, to) are lost, and some acknowledgments."""
    sent = [peer.outgoing(number) for peer in peers]
    for me, peer in enumerate(peers):
        for sender in peer.schedule(number).incoming:
            if (sender, me) in lost:
                peer.algorithm.missing(peer.state, sender, {})
            else:
                peer.accumulate(sender, sent[sender][me])
    for me, peer in enumerate(peers):
        for neighbor in sent[me]:
            if (me, neighbor) in lost | unsure:
                peer.algorithm.edge_reset(peer.state, neighbor)
                peer.algorithm.undelivered(peer.state, neighbor, sent[me][neighbor])
        peer.finish(number)
