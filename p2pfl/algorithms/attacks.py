"""Attacks by a peer that holds a valid key, on what it sends or trains on.

    sign-flip           x' = −s x  (Li et al. 2019, "RSA: Byzantine-robust stochastic aggregation methods", section 5)
    a-little-is-enough  x' = x − s σ  (Baruch, Baruch & Goldberg 2019, "A little is enough", section 3.1: μ − z σ)
    inner-product       x' = c − s m  (Xie, Koyejo & Gupta 2020, "Fall of empires", section 4: −ε times the honest mean)
    label-flip          trains on the labels C − 1 − y, and sends the result

An attacker here is a process like any other and knows what it sees: x, its honest vector; c, its x when the round
began; and the vectors that its neighbors sent it in the last round, of which m is the mean movement away from its c of
then, and σ the standard deviation of each coordinate. As long as it has seen none (in its first round, and always as a
client), its own movement x − c stands for m, and |x − c| for σ. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Outgoing, RoundContext, Saved
from p2pfl.algorithms.blockwise import Cursor
from p2pfl.errors import ConfigError
from p2pfl.faults.parser import attack_problem
from p2pfl.payload import FP32, Encoding, LocalTraining, Payload, Receipt
from p2pfl.registry import ATTACKS, load
from p2pfl.topology import NeighborhoodSchedule

S = TypeVar("S")


@dataclass(frozen=True)
class View:
    """An attacker's knowledge when it sends.

    Float32 vectors of one length: x, c, m and σ of the module's text.
    """

    own: Tensor
    start: Tensor
    movement: Tensor
    spread: Tensor


Attack = Callable[[View], Tensor]
"""The vector that is sent: a new one, float32."""

Tamper = Callable[[int, Tensor, Tensor], Tensor]
"""An attacking client's update: round, the global model that it was sent, its honest update → the update it sends."""

Relabel = Callable[[int, Tensor], Tensor]
"""An attacker's labels: round, labels (B,) → labels to train on."""


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
    """An attack by name.

    None for label-flip, which changes labels and sends its vectors honestly: `relabeling`.

    `scale` is s above; None: 1, and 1.5 for a-little-is-enough. Raises ConfigError for an unknown name or a bad scale.
    """
    if problem := attack_problem(name, scale):
        raise ConfigError(problem)
    if name == LABEL_FLIP:
        return None
    build: Callable[..., Attack] = load(ATTACKS[name])
    return build() if scale is None else build(scale)


def flip_labels(labels: Tensor, classes: int) -> Tensor:
    """Mirrored labels C − 1 − y."""
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
    """View of an attacker that has seen no vector but its own."""
    movement = own - start
    return View(own, start, movement, movement.abs())


@dataclass
class AttackState(Generic[S]):
    """own, start: x and c of `View`.

    offset, square: sums over the neighbors' vectors x_j of x_j − own and its square.

    me: the peer's number. seen: number of neighbors' vectors in these sums. movement, spread: m and σ of the last
    round; None before a neighbor's vector has come.
    """

    inner: S
    own: Tensor
    start: Tensor
    offset: Tensor
    square: Tensor
    me: int = -1
    seen: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    movement: Tensor | None = None
    spread: Tensor | None = None


@dataclass(frozen=True)
class Attacking(Algorithm[AttackState[S]]):
    """Wrapper of an algorithm whose peer attacks its neighbors in some rounds.

    Its own mix is the honest one.

    It falsifies x; other vectors and scalars of a payload are sent as they are, such as gradient tracking's z and the
    counts of RelaySum, of which each neighbor gets the falsified x as its whole message.
    """

    inner: Algorithm[S]
    attack: Attack
    active: Callable[[int], bool]

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.inner.encodings

    @property
    def overlapped(self) -> bool:
        return self.inner.overlapped

    @property
    def streaming(self) -> bool:
        return self.inner.streaming

    @property
    def is_robust(self) -> bool:
        return self.inner.is_robust

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> AttackState[S]:
        zeros = torch.zeros_like(x), torch.zeros_like(x)
        return AttackState(self.inner.init(x, schedule), x.clone(), x.clone(), *zeros)

    def request(self, state: AttackState[S], ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        return self.inner.request(state.inner, ctx, asked)

    def outgoing(self, state: AttackState[S], ctx: RoundContext) -> Outgoing:
        honest = self.inner.outgoing(state.inner, ctx)
        state.offset.zero_()
        state.square.zero_()
        state.me, state.seen = ctx.neighborhood.me, 0
        state.cursor.reset()
        if not honest:
            return honest
        (vector,) = self.inner.own(state.inner).vectors["x"]
        previous = state.own
        state.own = vector.to(FP32.dtype, copy=True)
        if self.inner.overlapped:
            state.start = previous  # the c of this round: training has moved x before the last `finish` could take it
        if not self.active(ctx.round):
            return honest
        sent = self.attack(self._view(state)).to(vector.dtype)
        return {
            neighbor: self.inner.substitute(state.inner, neighbor, payload, sent)
            for neighbor, payload in honest.items()
        }

    def own(self, state: AttackState[S]) -> Payload:
        return self.inner.own(state.inner)

    def accumulate(self, state: AttackState[S], sender: int, part: Payload) -> None:
        self.inner.accumulate(state.inner, sender, part)
        if sender != state.me:
            self._look_at(state, sender, self.inner.seen(state.inner, sender, part))

    def missing(self, state: AttackState[S], sender: int, received: Mapping[str, int]) -> None:
        self.inner.missing(state.inner, sender, received)

    def undelivered(self, state: AttackState[S], neighbor: int, sent: Payload) -> None:
        self.inner.undelivered(state.inner, neighbor, sent)

    def edge_reset(self, state: AttackState[S], neighbor: int) -> None:
        self.inner.edge_reset(state.inner, neighbor)

    def model_of(self, payload: Payload) -> Sequence[Tensor] | None:
        return self.inner.model_of(payload)

    def receipt(self, state: AttackState[S], neighbor: int) -> Receipt:
        return self.inner.receipt(state.inner, neighbor)

    def edge_up(self, state: AttackState[S], neighbor: int, received: Receipt, served_from: int) -> None:
        self.inner.edge_up(state.inner, neighbor, received, served_from)

    def finish(self, state: AttackState[S], ctx: RoundContext) -> Tensor:
        x = self.inner.finish(state.inner, ctx)
        if state.seen:
            # Relative to c of this round, before c moves to the next.
            state.movement = (state.offset / state.seen).add_(state.own).sub_(state.start)
            count = state.seen + 1  # σ is that of the neighbors' vectors and the peer's own
            mean = state.offset / count
            state.spread = (state.square / count).addcmul_(mean, mean, value=-1.0).clamp_(min=0.0).sqrt_()
        if not self.inner.overlapped:
            state.start = x.clone()
        return x

    def state_dict(self, state: AttackState[S]) -> Saved:
        saved = {f"inner.{name}": value for name, value in self.inner.state_dict(state.inner).items()}
        if self.inner.overlapped:
            saved["own"] = state.own
        if state.movement is not None and state.spread is not None:
            saved |= {"movement": state.movement, "spread": state.spread}
        return saved

    def load_state_dict(self, state: AttackState[S], saved: Saved) -> None:
        inner = {name.removeprefix("inner."): value for name, value in saved.items() if name.startswith("inner.")}
        self.inner.load_state_dict(state.inner, inner)
        vectors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        state.own = vectors.get("own", state.own)
        state.movement, state.spread = vectors.get("movement"), vectors.get("spread")

    def _look_at(self, state: AttackState[S], sender: int, pieces: Sequence[Tensor]) -> None:
        state.seen += not state.cursor.has_begun(sender)
        for here, block in state.cursor.blocks(sender, pieces):
            apart = block.float() - state.own[here]
            state.offset[here] += apart
            state.square[here].addcmul_(apart, apart)

    def _view(self, state: AttackState[S]) -> View:
        view = _alone(state.own, state.start)
        if state.movement is None or state.spread is None:
            return view
        return replace(view, movement=state.movement, spread=state.spread)
