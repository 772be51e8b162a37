"""Attacks by a peer that holds a valid key: what it sends, or learns, instead of the honest thing.

    sign-flip           x' = −s x  (Li et al. 2019, "RSA: Byzantine-robust stochastic aggregation methods", section 5)
    a-little-is-enough  x' = x − s σ  (Baruch, Baruch & Goldberg 2019, "A little is enough", section 3.1: μ − z σ)
    inner-product       x' = c − s m  (Xie, Koyejo & Gupta 2020, "Fall of empires", section 4: −ε times the honest mean)
    label-flip          trains on the labels C − 1 − y, and sends what came of it

An attacker here is a process like any other and knows what it sees: x, the vector that it would honestly send; c, where
it stood when the round began; and the vectors that its neighbors sent it in the last round, of which m is the mean
movement away from where it stood then, and σ the standard deviation of each coordinate. As long as it has seen none (in
its first round, and always as a client), its own movement x − c stands for m, and |x − c| for σ. Nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Hoods, blocks
from p2pfl.errors import ConfigError
from p2pfl.payload import Codec, Payload
from p2pfl.registry import ATTACKS, load

S = TypeVar("S")


@dataclass(frozen=True)
class View:
    """What an attacker knows when it sends, float32 vectors of one length: x, c, m and σ of the module's text."""

    own: Tensor
    start: Tensor
    movement: Tensor
    spread: Tensor


Attack = Callable[[View], Tensor]
"""The vector that is sent: a new one, float32."""

Tamper = Callable[[int, Tensor, Tensor], Tensor]
"""The same for a client: round, the global model that it was sent, its honest update → what it sends."""

Relabel = Callable[[int, Tensor], Tensor]
"""The same for what is trained on: round, labels (B,) → labels."""


def sign_flip(scale: float = 1.0) -> Attack:
    """x' = −s x."""
    return lambda view: view.own.mul(-scale)


def a_little_is_enough(scale: float = 1.5) -> Attack:
    """x' = x − s σ."""
    return lambda view: torch.add(view.own, view.spread, alpha=-scale)


def inner_product(scale: float = 1.0) -> Attack:
    """x' = c − s m."""
    return lambda view: torch.add(view.start, view.movement, alpha=-scale)


LABEL_FLIP = "label-flip"


def build_attack(name: str, scale: float | None = None) -> Attack | None:
    """An attack by name; None for label-flip, which sends honestly what came of its training: `relabeling`.

    `scale` is s above; None: 1, and 1.5 for a-little-is-enough. Raises ConfigError for what there is not.
    """
    if name not in ATTACKS:
        raise ConfigError(f"attack {name!r}: choose one of {', '.join(ATTACKS)}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"attack {name}: scale {scale}: must be a number above 0")
    if name == LABEL_FLIP:
        if scale is not None:
            raise ConfigError(f"attack {name}: scale {scale}: it has none, leave it out")
        return None
    build: Callable[..., Attack] = load(ATTACKS[name])
    return build() if scale is None else build(scale)


def flip_labels(labels: Tensor, classes: int) -> Tensor:
    """C − 1 − y."""
    return classes - 1 - labels


def relabeling(classes: int, active: Callable[[int], bool]) -> Relabel:
    """label-flip in the rounds in which it is active, as a trainer's `relabel`."""
    return lambda round, labels: flip_labels(labels, classes) if active(round) else labels


def tampering(attack: Attack, active: Callable[[int], bool]) -> Tamper:
    """An attack in the rounds in which it is active, as a client's `tamper`."""

    def tamper(round: int, start: Tensor, own: Tensor) -> Tensor:
        return attack(_alone(own, start)) if active(round) else own

    return tamper


def _alone(own: Tensor, start: Tensor) -> View:
    """What an attacker knows that has seen nobody's vector but its own."""
    movement = own - start
    return View(own, start, movement, movement.abs())


@dataclass
class AttackState(Generic[S]):
    """own, start: as in `View`. offset, square: sums over the neighbors' vectors x_j of x_j − own and its square.

    seen: how many neighbors' vectors these hold. sender, filled: whose vector is being added, and how many elements of
    it have been. movement, spread: what the last round's vectors came to.
    """

    inner: S
    own: Tensor
    start: Tensor
    offset: Tensor
    square: Tensor
    seen: int = 0
    sender: int | None = None
    filled: int = 0
    movement: Tensor | None = field(default=None)
    spread: Tensor | None = field(default=None)


@dataclass(frozen=True)
class Attacking(Generic[S]):
    """An algorithm whose peer sends what the attack makes of its vectors in some rounds, and goes on as if it had not.

    For payloads of one vector, x, as all that mix by W or robustly have.
    """

    inner: Algorithm[S]
    attack: Attack
    active: Callable[[int], bool]

    @property
    def codec(self) -> Codec:
        return self.inner.codec

    @property
    def vectors(self) -> tuple[str, ...]:
        return self.inner.vectors

    @property
    def overlapped(self) -> bool:
        return self.inner.overlapped

    @property
    def streaming(self) -> bool:
        return self.inner.streaming

    def start(self, x: Tensor, hoods: Hoods) -> AttackState[S]:
        zeros = torch.zeros_like(x), torch.zeros_like(x)
        return AttackState(self.inner.start(x, hoods), x.clone(), x.clone(), *zeros)

    def outgoing(self, state: AttackState[S], round: int) -> list[tuple[int, Payload]]:
        honest = self.inner.outgoing(state.inner, round)
        self._look_back(state)
        if not honest:
            return honest
        (vector,) = honest[0][1].vectors["x"]
        previous = state.own
        state.own = vector.float() if vector.dtype != torch.float32 else vector.clone()
        if self.inner.overlapped:
            state.start = previous  # training has moved x before the last round's `finish` could show where it stood
        if not self.active(round):
            return honest
        sent = self.attack(self._view(state)).to(vector.dtype)
        return [(neighbor, replace(payload, vectors={"x": (sent,)})) for neighbor, payload in honest]

    def fold(self, state: AttackState[S], sender: int, payload: Payload | None) -> None:
        if payload is not None:
            self._look_at(state, sender, payload.vectors["x"])
        self.inner.fold(state.inner, sender, payload)

    def finish(self, state: AttackState[S]) -> Tensor:
        x = self.inner.finish(state.inner)
        if state.seen:
            # Still relative to where it stood in this round, before it moves on.
            state.movement = (state.offset / state.seen).add_(state.own).sub_(state.start)
        if not self.inner.overlapped:
            state.start = x.clone()
        return x

    def _look_at(self, state: AttackState[S], sender: int, pieces: Sequence[Tensor]) -> None:
        if sender != state.sender:
            state.sender, state.filled = sender, 0
            state.seen += 1
        for piece in pieces:
            for block in blocks(piece):
                here = slice(state.filled, state.filled + block.numel())
                apart = block.float() - state.own[here]
                state.offset[here] += apart
                state.square[here].addcmul_(apart, apart)
                state.filled = here.stop

    def _look_back(self, state: AttackState[S]) -> None:
        """Make up the spread of the last round's vectors, its own among them, and begin to look anew."""
        if state.seen:
            count = state.seen + 1
            mean = state.offset / count
            state.spread = (state.square / count).addcmul_(mean, mean, value=-1.0).clamp_(min=0.0).sqrt_()
        state.offset.zero_()
        state.square.zero_()
        state.seen, state.sender = 0, None

    def _view(self, state: AttackState[S]) -> View:
        view = _alone(state.own, state.start)
        if state.movement is None or state.spread is None:
            return view
        return replace(view, movement=state.movement, spread=state.spread)
