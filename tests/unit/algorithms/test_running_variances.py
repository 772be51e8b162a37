"""Running variances of batch normalization stay positive under every algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, driven, images, matrix, mix, random_vectors, schedules_of

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms import DPSGD, build_algorithm
from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, RoundContext
from p2pfl.algorithms.push_sum import PushSum
from p2pfl.payload import LocalTraining
from p2pfl.registry import ALGORITHMS
from p2pfl.topology import Topology, build_topology, mixing_matrix, spanning_tree
from p2pfl.training import Trainer, TrainStats

PEERS, ROUNDS = 4, 20
SAMPLES, WHITE = 96, 48  # of a peer; two of them are white
SETTINGS: dict[str, Any] = {
    "model": "user_models:normed",
    "rounds": ROUNDS,
    "local_steps": 10,
    "batch_size": 2,
    "lr": 0.1,
    "threads": 1,
    "augment": "off",
}
# All send to peer 0, so that push-sum's weights settle between 1.7 and 0.4.
UNEVEN = build_topology(nx.DiGraph([(0, 1), (1, 2), (2, 3), (1, 0), (2, 0), (3, 0)]), name="uneven", source="uneven")
WAYS = [(name, order) for name, entry in ALGORITHMS.items() if entry.synchronous for order in entry.orders]


class Network:
    """Peers with real models, in step and without messages."""

    def __init__(self, name: str, order: str, **changes: object) -> None:
        entry, robust = ALGORITHMS[name], {"byzantine": 1} if ALGORITHMS[name].tolerates_byzantine else {}
        mixing = "column-stochastic" if entry.pushes_sums else "metropolis-hastings"
        config = RunConfig.of(**SETTINGS, **robust, algorithm=name, order=order, mixing=mixing)
        self.trainers = [self.trainer(config, peer) for peer in range(PEERS)]
        slots = self.trainers[0].layout.slots
        self.variances = [slot for slot in slots if slot.name.endswith("running_var")]
        algorithm = build_algorithm(config, PEERS, self.trainers[0].layout.buffers)
        self.algorithm: Algorithm[Any] = replace(algorithm, **changes) if changes else algorithm  # type: ignore[type-var]
        self.schedules = schedules_of(mixing_matrix(self.topology(name), mixing))
        pairs = zip(self.trainers, self.schedules, strict=True)
        self.states = [self.algorithm.init(trainer.vector, schedule) for trainer, schedule in pairs]

    @staticmethod
    def topology(name: str) -> Topology:
        entry = ALGORITHMS[name]
        if entry.pushes_sums:
            return UNEVEN
        star = make_topology("complete" if entry.tolerates_byzantine else "star", PEERS)
        return spanning_tree(star) if entry.uses_tree else star

    @staticmethod
    def trainer(config: RunConfig, peer: int) -> Trainer:
        """Few samples are white: variances rise steeply, at one peer at a time, and fall."""
        dataset = images(train=SAMPLES)
        dataset.train_images[::WHITE] = 255
        return Trainer(config, dataset, np.arange(SAMPLES), CPU, peer)

    def train(self, contexts: list[RoundContext]) -> list[TrainStats]:
        """Local steps of all peers as their algorithm requests them."""
        found = []
        for trainer, state, ctx in zip(self.trainers, self.states, contexts, strict=True):
            request = self.algorithm.request(state, ctx, LocalTraining())
            found.append(trainer.train(ctx.round, lambda steps: None, lambda: False, request))
        return found

    def round(self, number: int) -> float:
        """One round; returns the lowest running variance of any peer after it."""
        before = [RoundContext(number, schedule(number)) for schedule in self.schedules]
        trained = None if self.algorithm.overlapped else self.train(before)
        sent = [
            self.algorithm.outgoing(state, ctx)
            for state, ctx in zip(self.states, before if trained is None else self.after(before, trained), strict=True)
        ]
        after = self.after(before, self.train(before) if trained is None else trained)
        for me, (state, ctx) in enumerate(zip(self.states, after, strict=True)):
            for sender in sorted([*ctx.neighborhood.incoming, me]):
                part = self.algorithm.own(state) if sender == me else sent[sender][me]
                self.algorithm.accumulate(state, sender, part)
        for trainer, state, ctx in zip(self.trainers, self.states, after, strict=True):
            trainer.move_to(self.algorithm.finish(state, ctx))
        return min(float(slot.view(trainer.vector).min()) for trainer in self.trainers for slot in self.variances)

    @staticmethod
    def after(contexts: list[RoundContext], trained: list[TrainStats]) -> list[RoundContext]:
        return [
            replace(ctx, steps=done.steps, samples=done.samples, loss=done.loss, lr=done.lr, lr_sum=done.lr_sum)
            for ctx, done in zip(contexts, trained, strict=True)
        ]

    def lowest(self) -> float:
        return min(self.round(number) for number in range(1, ROUNDS + 1))


@pytest.mark.parametrize(("name", "order"), WAYS)
def test_no_algorithm_makes_a_running_variance_negative(name: str, order: str) -> None:
    """No peer's in any of twenty rounds of ten steps; so that of the mean neither."""
    assert Network(name, order).lowest() >= 0.0


@pytest.mark.parametrize(
    ("name", "order"), [("exact-diffusion", "atc"), ("choco", "atc"), ("push-sum", "atc"), ("push-sum", "overlapped")]
)
def test_buffers_that_are_treated_as_parameters_become_negative(name: str, order: str) -> None:
    """So the test above can fail."""
    assert Network(name, order, buffers=()).lowest() < 0.0


@pytest.mark.parametrize("name", ["dpsgd", "push-sum"])
@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_overlapped_buffers_become_the_mean_of_the_mix_and_the_trained_ones(name: str, wire: str) -> None:
    """Parameters become the mix and the whole step of training."""
    place, vectors = slice(10, 30), random_vectors(PEERS, 40)
    options = AlgorithmOptions(overlapped=True, wire_dtype=wire, buffers=(place,), peers=PEERS)
    w = mixing_matrix(UNEVEN, "column-stochastic") if name == "push-sum" else matrix("ring", PEERS)
    before, steps = torch.stack(vectors).numpy().copy(), torch.stack(random_vectors(PEERS, 40, seed=1)).numpy()
    peers = driven((PushSum if name == "push-sum" else DPSGD).of(options), w, vectors)
    sent = [peer.outgoing(1) for peer in peers]
    for x, step in zip(vectors, steps, strict=True):
        x.add_(torch.from_numpy(step))
    mix(peers, sent, 1, vectors)
    mixed = w @ before / w.sum(axis=1, keepdims=True)
    expected = mixed + steps / w.sum(axis=1, keepdims=True)
    expected[:, place] = (mixed + before + steps)[:, place] / 2.0
    tolerance = 2e-6 if wire == "fp32" else 2e-2
    np.testing.assert_allclose(torch.stack(vectors).numpy(), expected, atol=tolerance)
