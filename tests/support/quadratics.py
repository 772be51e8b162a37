"""Peers with quadratic objectives, torch's optimizer and a gossip algorithm.

f_i(x) = ½ (x − b_i)ᵀ A_i (x − b_i): gradients, and the minimum of their mean, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from tests.support.helpers import schedules_of

from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.payload import LocalTraining

SIZE = 16


@dataclass
class Quadratics:
    """Objectives of n peers: diagonals `curvature` A and `minima` b, (n, size)."""

    curvature: np.ndarray
    minima: np.ndarray

    @classmethod
    def random(cls, n: int, seed: int = 0) -> Quadratics:
        draw = np.random.default_rng(seed)
        return cls(draw.uniform(0.5, 1.5, (n, SIZE)), draw.standard_normal((n, SIZE)))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Each peer's gradient at its row of x, (n, size)."""
        return self.curvature * (x - self.minima)

    @property
    def solution(self) -> np.ndarray:
        """Minimum of the mean objective, (size,)."""
        return (self.curvature * self.minima).sum(0) / self.curvature.sum(0)


@dataclass
class QuadraticSwarm:
    """All peers of a network: their vectors, momenta and states of the algorithm.

    `adamw`: the local optimizer is AdamW with β₁ = beta, and not SGD.
    """

    algorithm: Algorithm
    w: np.ndarray
    problem: Quadratics
    beta: float = 0.0
    adamw: bool = False
    x: list[torch.Tensor] = field(init=False)
    dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        n = len(self.w)
        self.x = [torch.zeros(SIZE) for _ in range(n)]
        self.schedules = schedules_of(self.w)
        pairs = zip(self.x, self.schedules, strict=True)
        self.states = [self.algorithm.init(x, schedule) for x, schedule in pairs]
        self.momenta = [torch.zeros(SIZE) for _ in range(n)]
        self.moments: list[dict[str, torch.Tensor]] = [{} for _ in range(n)]  # of AdamW

    def round(self, number: int, rates: list[float]) -> np.ndarray:
        """One round, a local step for each learning rate; returns x, (n, size)."""
        done = {"steps": len(rates), "lr": rates[-1], "lr_sum": sum(rates)}
        before = [RoundContext(number, schedule(number)) for schedule in self.schedules]
        after = [RoundContext(number, schedule(number), **done) for schedule in self.schedules]
        train = self.train if self.algorithm.overlapped else None
        if train is None:
            self.train(before, rates)
        sent = [
            dict(self.algorithm.outgoing(state, context))
            for state, context in zip(self.states, before if train else after, strict=True)
        ]
        if train is not None:
            train(before, rates)
        for me, state in enumerate(self.states):
            for sender in sorted([*after[me].neighborhood.incoming, me]):
                if sender in self.dead or (me in self.dead and sender != me):
                    self.algorithm.missing(state, sender, {})
                    continue
                part = self.algorithm.own(state) if sender == me else sent[sender][me]
                self.algorithm.accumulate(state, sender, part)
        pairs = zip(self.states, after, strict=True)
        self.x = [self.algorithm.finish(state, context) for state, context in pairs]
        return self.values

    @property
    def values(self) -> np.ndarray:
        return np.stack([x.numpy().astype(np.float64) for x in self.x])

    def train(self, contexts: list[RoundContext], rates: list[float]) -> None:
        """Local steps of all peers, as the trainer takes them on request."""
        for peer, (state, context) in enumerate(zip(self.states, contexts, strict=True)):
            request = self.algorithm.request(state, context, LocalTraining())
            weights = torch.nn.Parameter(self.x[peer])
            optimizer = self.optimizer(weights, peer)
            if request.carried_momentum is not None:
                self.momenta[peer].copy_(request.carried_momentum)
            if request.gradient_sum is not None:
                request.gradient_sum.zero_()
            for rate in rates:
                gradient = self.problem.gradient(self.values_of(weights, peer))[peer]
                weights.grad = torch.from_numpy(gradient).float()
                if request.correction is not None:
                    weights.grad += request.correction
                if request.gradient_sum is not None:
                    request.gradient_sum.add_(weights.grad)
                if isinstance(request.momentum, torch.Tensor):
                    self.momenta[peer].copy_(request.momentum)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
            if request.carried_momentum is not None:
                request.carried_momentum.copy_(self.momenta[peer])

    def optimizer(self, weights: torch.nn.Parameter, peer: int) -> torch.optim.Optimizer:
        """torch's optimizer of a peer, which continues with its state."""
        if self.adamw:
            adamw = torch.optim.AdamW([weights], lr=1.0, betas=(self.beta, 0.999), weight_decay=0.0)
            adamw.state[weights] = self.moments[peer]
            return adamw
        sgd = torch.optim.SGD([weights], lr=1.0, momentum=self.beta, nesterov=self.beta > 0)
        if self.beta > 0:
            sgd.state[weights]["momentum_buffer"] = self.momenta[peer]
        return sgd

    def values_of(self, weights: torch.Tensor, peer: int) -> np.ndarray:
        rows = np.zeros((len(self.w), SIZE))
        rows[peer] = weights.detach().numpy()
        return rows
