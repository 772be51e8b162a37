"""Contract of a gossip algorithm, with its view of the run and of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from p2pfl.payload import ENCODINGS, FP32, Encoding, LocalTraining, Payload, Receipt, VectorMemory
from p2pfl.topology import Neighborhood, NeighborhoodSchedule

S = TypeVar("S")

Outgoing = Mapping[int, Payload]
"""Payload for each out-neighbor: the same for all, or one each."""

Saved = Mapping[str, Tensor | float]
"""An algorithm's state in a checkpoint: tensors and numbers by name."""

ONLY_X: Mapping[str, Mapping[str, Encoding]] = {name: {"x": encoding} for name, encoding in ENCODINGS.items()}
"""Encodings of a payload of one vector, "x", by the name of its encoding."""


@dataclass(frozen=True)
class AlgorithmOptions:
    """Settings of a run that an algorithm may heed.

    overlapped: the exchange runs beside training (--order). wire_dtype: name of the encoding (--wire-dtype).
    byzantine: malicious neighbors to tolerate (--byzantine). momentum: of the local optimizer (--momentum).
    max_lr: peak of the learning rate schedule (--lr). peak_round: round in which the schedule reaches it, counted as in
    `RoundContext`.
    peers: number of peers in the run. compression, consensus_step: of compressed exchanges (--compression,
    --consensus-step). seed: of the run.
    buffers: places in x of floating-point buffers, such as running statistics of batch normalization. They are mixed
    plainly: momentum, tracking or extrapolation could make a variance negative.
    """

    overlapped: bool = False
    wire_dtype: str = "fp32"
    byzantine: int = 0
    momentum: float = 0.9
    max_lr: float = 1.0
    peak_round: int = 1
    peers: int = 1
    buffers: tuple[slice, ...] = ()
    compression: str = "top-k:0.1"
    consensus_step: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class RoundContext:
    """One round of one peer: number, neighborhood, result of its local training.

    round: counted from 1; with several exchanges after each training (--gossip-steps) every exchange counts.

    steps: optimizer steps taken. samples: training samples processed. loss: their mean. lr: learning rate of the last
    step. lr_sum: sum of the learning rates of all steps. All are 0 where the peer has not trained in this round (yet):
    in a consensus round, in a further exchange after a training, and in `outgoing` of an overlapped algorithm.

    memory: memory for vectors that are sent; an algorithm may ask it in `outgoing`, and need not.
    """

    round: int
    neighborhood: Neighborhood
    steps: int = 0
    samples: int = 0
    loss: float = 0.0
    lr: float = 0.0
    lr_sum: float = 0.0
    memory: VectorMemory = field(default_factory=VectorMemory, compare=False, repr=False)


class Algorithm(Protocol[S]):
    """A gossip algorithm.

    An implementation names this class as its base and inherits the defaults.

    A round is: `outgoing`, then `accumulate` or `missing` for each in-neighbor and for the peer itself in peer order,
    then `finish`. An algorithm keeps nothing in itself: everything that changes is in the state.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Give a class that overrides `accumulate` alone the default `add_borrowed`.

        That of the class that it derives from would pass its own `accumulate` by.
        """
        super().__init_subclass__(**options)
        if "accumulate" in vars(cls) and "add_borrowed" not in vars(cls):
            cls.add_borrowed = Algorithm.add_borrowed  # type: ignore[method-assign]

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """Name and encoding of each vector in a payload, each as long as x.

        Default: "x" in float32.
        """
        return ONLY_X[FP32.name]

    @property
    def overlapped(self) -> bool:
        """Whether the exchange runs beside training: `outgoing` is called before it."""
        return False

    @property
    def streaming(self) -> bool:
        """Whether `accumulate` takes a payload in parts, while it is received."""
        return False

    @property
    def reads_borrowed(self) -> bool:
        """Whether `accumulate` takes vectors in neighbors' shared memory; default: no.

        They are `payload.Borrowed`. Such an algorithm copies and checks their numbers where it uses them, and needs no
        memory for them.
        """
        return False

    @property
    def is_robust(self) -> bool:
        """Whether no neighbor's vector is trusted by itself.

        Then bootstrap takes the median, and consensus rounds use the same algorithm.
        """
        return False

    @property
    def takes_back(self) -> bool:
        """Whether `undelivered` takes a payload back.

        Then no restart may send it again. Default: no; a neighbor that is behind gets it from the checkpoint.
        """
        return False

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        """The algorithm with these options; default: built without arguments."""
        return cls()

    def merge(self) -> Algorithm[Any] | None:
        """The algorithm of the consensus rounds; default: None, Chebyshev's mixing.

        A robust algorithm itself, since one malicious neighbor would lead plain mixing anywhere.
        """
        return self if self.is_robust else None

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> S:
        """The state before the first round.

        `x` is the peer's flat float32 vector, (size,), which training moves in place; the state keeps it, not a copy.
        """
        raise NotImplementedError

    def request(self, state: S, ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        """Request to this round's local training; default: that of the run's settings.

        `asked`: the request that the settings make.
        """
        return asked

    def outgoing(self, state: S, ctx: RoundContext) -> Outgoing:
        """Begin a round: the payload for each out-neighbor.

        Payloads do not change until the next `outgoing`.
        """
        raise NotImplementedError

    def own(self, state: S) -> Payload:
        """The peer's own contribution to the round, as it would travel.

        Each vector is one piece.
        """
        raise NotImplementedError

    def accumulate(self, state: S, sender: int, part: Payload) -> None:
        """Add one sender's payload.

        The peer's own contribution comes at the peer's place in peer order.

        Where the algorithm is `streaming`, a payload comes in parts as they arrive, each continuing where the sender's
        last ended, the scalars with the first; a part need not hold something of every vector. Parts of several senders
        and of the peer itself may alternate, but each element comes in peer order. A part's tensors are another part's
        after this call: what is kept must be copied. Otherwise the payload comes whole, and may be kept.
        """
        raise NotImplementedError

    def add_borrowed(self, state: S, parts: Mapping[int, Payload]) -> bool:
        """Add the next parts of several senders as they lie in shared memory.

        In peer order, as by `accumulate`, and equally long. `parts` may contain the peer's own; neighbors' vectors are
        `payload.Borrowed`, of which each number is read once and must not be kept. Returns False where the result is
        not finite; then nothing has been added, and copies come by `accumulate`, those that are finite. Only asked of a
        `streaming` algorithm. Default: False, always.
        """
        return False

    def missing(self, state: S, sender: int, received: Mapping[str, int]) -> None:
        """Fill the place of a payload that does not come, or not to its end.

        `received`: elements of each vector that have come.

        Default: the peer's own contribution stands in for the rest. Then each element's weights still add up to 1,
        the neighbor's being the peer's own (`W[i,i] += W[i,j]`).
        """
        self.accumulate(state, sender, self.own(state).rest(received))

    def undelivered(self, state: S, neighbor: int, sent: Payload) -> None:
        """Take note of a payload that a neighbor has not acknowledged; default: nothing.

        The neighbor was lost, or absent, in the current round.

        Called once per round and neighbor, before the next `outgoing`. It may have the payload nevertheless, if the
        connection broke between its receipt and the acknowledgment.
        """
        return

    def edge_reset(self, state: S, neighbor: int) -> None:
        """The edge to a neighbor went down: both ends forget what they knew of each other.

        Default: nothing. It may happen within a round, after the neighbor's payload has been accumulated, and does also
        when the neighbor has done its last round.
        """
        return

    def model_of(self, payload: Payload) -> Sequence[Tensor] | None:
        """Model in a neighbor's payload, in pieces; default: its x. None: of no use.

        A peer that takes its neighbors' weights (bootstrap) needs it.
        """
        return payload.vectors["x"]

    def seen(self, state: S, sender: int, part: Payload) -> Sequence[Tensor]:
        """Next pieces of a sender's vector, of whose payload a part has been accumulated.

        Default: those of x in the part. An attacker looks at them.
        """
        return part.vectors.get("x", ())

    def substitute(self, state: S, neighbor: int, payload: Payload, x: Tensor) -> Payload:
        """Payload of this round with another x, which an attacker sends.

        Default: only x differs.
        """
        return replace(payload, vectors={**payload.vectors, "x": (x,)})

    def receipt(self, state: S, neighbor: int) -> Receipt:
        """Last round whose payload from a neighbor is in the state; default: none.

        The neighbor is told when an edge comes up: `edge_up`.
        """
        return Receipt()

    def edge_up(self, state: S, neighbor: int, received: Receipt, served_from: int) -> None:
        """The edge to a neighbor came up, at the start or once more; default: nothing.

        `received`: last round of which the neighbor has this peer's payload, in its state or about to be accumulated.
        `served_from`: first round whose payload will be sent to it, perhaps again. Payloads of the rounds between have
        not reached it, though some may have been acknowledged by a process that died, and are not sent again.
        """
        return

    def finish(self, state: S, ctx: RoundContext) -> Tensor:
        """End the round and return the mix, which is x from now on.

        The mix is the same vector, or another like it.

        By returning another one, the old one stays as it is without a copy, while neighbors may still be taking it.
        """
        raise NotImplementedError

    def state_dict(self, state: S) -> Saved:
        """The state after a round, without x, for a checkpoint; default: nothing.

        A checkpoint is written while the peer handles messages: these tensors are not written in place before the next
        `outgoing`, not by `undelivered`, `edge_reset` and `edge_up` either, which may put others in their place.
        """
        return {}

    def load_state_dict(self, state: S, saved: Saved) -> None:
        """Continue with a saved state, whose tensors it may keep.

        `state` is new from `init` with the saved x.
        """
        return
