"""The coordinator's step: from its clients' updates to the next global model.

FedAvg (McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data", algorithm 1):
    w⁺ = Σ_k p_k x_k,  p_k = n_k / Σ_k n_k (or 1/m), over the clients k whose updates x_k came
FedAvgM (Hsu, Qi & Brown 2019, "Measuring the effects of non-identical data distribution", section 3), lr in front:
    v⁺ = β v + (Σ_k p_k x_k − w),  w⁺ = w + lr · v⁺

Instead of Σ_k p_k x_k it may be the trimmed mean or the median of each coordinate, or Krum's choice among the updates
(`rules`), which heed no p_k and need all updates at once: memory is as many models as updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2pfl.algorithms.base import ONLY_X
from p2pfl.algorithms.blockwise import Pieces, add_weighted
from p2pfl.algorithms.rules import Blocks, median
from p2pfl.payload import ENCODINGS, FP32, Encoding, Payload
from p2pfl.registry import AVERAGINGS, load

Rule = Callable[[Sequence[Pieces], int], Blocks]
"""Robust average of the registry: all updates and the number of malicious ones in, blocks of the average out."""


def coordinate_median(updates: Sequence[Pieces], byzantine: int) -> Blocks:
    """Median of each coordinate, which tolerates any minority of malicious updates."""
    return median(updates)


def client_weights(averaging: str, sizes: Sequence[int]) -> list[float]:
    """Weights of the clients' updates, not normalized.

    Sizes of their shards (McMahan et al. 2017, section 2), or 1 each, as `averaging` has it.
    """
    return [float(size) if AVERAGINGS[averaging].weighs_by_samples else 1.0 for size in sizes]


@dataclass(frozen=True)
class ServerOptions:
    """Options of the coordinator's step, each with its default.

    `averaging` and `byzantine` are the options of that name. `statistics` are the ranges of x that are no parameters
    (batch normalization's running statistics): momentum could make a variance negative, so these always become the
    plain average.
    """

    momentum: float = 0.0
    lr: float = 1.0
    wire_dtype: str = "fp32"
    averaging: str = "uniform"
    byzantine: int = 0
    statistics: Sequence[slice] = ()


_DEFAULTS = ServerOptions()


class ServerAverage:
    """The global model.

    A round is: outgoing, accumulate for each update that came, in client order, then finish.
    """

    def __init__(self, x: Tensor, velocity: Tensor, options: ServerOptions = _DEFAULTS) -> None:
        """Take the global model `x`, (size,) float32, and its momentum, to write in place."""
        self.x = x
        self.velocity = velocity
        self.encodings: Mapping[str, Encoding] = ONLY_X[options.wire_dtype]
        self.streaming = self.reads_borrowed = False
        self._options = options
        self._encoding = ENCODINGS[options.wire_dtype]
        self._total = torch.empty_like(x)
        entry = AVERAGINGS[options.averaging]
        self._rule: Rule | None = load(entry) if entry.tolerates_byzantine else None
        self._gathered: list[Pieces] = []
        self._weight = 0.0
        self._sent = x

    def outgoing(self) -> Payload:
        """Begin a round: the global model as it travels.

        It does not change even if a client takes it rounds later.
        """
        # New memory each round: a client that has stopped reading may still hold the last round's.
        self._sent = self.x.to(self._encoding.dtype, copy=True)
        self._weight = 0.0
        self._gathered.clear()
        return Payload({"x": (self._sent,)})

    def accumulate(self, payload: Payload, weight: float) -> None:
        """Add an update with its share p_k.

        The shares of all that were selected add up to 1.
        """
        if self._rule is not None:
            self._gathered.append(payload.vectors["x"])
            return
        add_weighted(self._total, payload.vectors["x"], weight, first=self._weight == 0.0)
        self._weight += weight

    def finish(self, complete: bool) -> None:
        """End the round: x becomes the next global model.

        `complete`: every update that was asked for has come.
        """
        target, options = self._total, self._options
        if self._rule is not None:
            for here, block in self._rule(self._gathered, options.byzantine):
                target[here] = block
            self._gathered.clear()
        elif not complete:
            target.div_(self._weight)
        if self._encoding != FP32:
            # w + Σ p_k (Q(x_k) − Q(w)), so that rounding the global model for its journey does not wear it away.
            target.sub_(self._sent.float()).add_(self.x)
        if options.momentum == 0.0 and options.lr == 1.0:
            self.x.copy_(target)
            return
        self.velocity.mul_(options.momentum).add_(target).sub_(self.x)
        self.x.add_(self.velocity, alpha=options.lr)
        for part in options.statistics:
            self.x[part] = target[part]
