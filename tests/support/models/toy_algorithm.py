"""A user's gossip algorithm, `--algorithm toy_algorithm:HeavyBall`.

docs/how-to/add-an-algorithm.md shows it.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from p2pfl.algorithms.base import Algorithm
from p2pfl.payload import Payload


class HeavyBall(Algorithm[SimpleNamespace]):
    """Gossip with momentum: v⁺ = v / 2 + (W x − x), x⁺ = x + v⁺."""

    def init(self, x, schedule):
        return SimpleNamespace(x=x, velocity=torch.zeros_like(x))

    def outgoing(self, state, ctx):
        state.weights = {ctx.neighborhood.me: ctx.neighborhood.self_weight, **ctx.neighborhood.incoming}
        state.mixed = torch.zeros_like(state.x)
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state):
        return Payload({"x": [state.x]})

    def accumulate(self, state, sender, part):
        state.mixed.add_(torch.cat(list(part.vectors["x"])), alpha=state.weights[sender])

    def finish(self, state, ctx):
        state.velocity = state.velocity / 2 + state.mixed - state.x
        state.x = state.x + state.velocity
        return state.x

    def state_dict(self, state):
        return {"velocity": state.velocity}

    def load_state_dict(self, state, saved):
        state.velocity = saved["velocity"]


def no_class() -> None:
    """Nothing that could be an algorithm."""
