"""State of a process that a checkpoint holds, and its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Origin:
    """Origin of a checkpoint: the run's id, the peer's label and its number.

    The id is the same over all resumes; it is empty where it is not known.
    """

    run: str = ""
    peer: str = ""
    index: int = 0


@dataclass(frozen=True)
class Sent:
    """Payloads of one exchange: vectors and scalars by neighbor and name."""

    vectors: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """State of a peer after `round` rounds.

    Vectors are (size,) as in the run's layout. `optimizer` is its state besides `momentum`, by name. `sent` and
    `scalars` are the payloads of the round's last exchange by neighbor and name, and `earlier` those of the exchanges
    before it in the round, oldest first. `algorithm` is the state of the gossip algorithm by name: tensors of any
    shape, and numbers. `record` is the round's record as JSON, and `recorded` the number of the peer's records so far.
    `every`: rounds between two checkpoints when it was saved.
    """

    round: int
    steps: int
    layout: str
    settings: str
    x: Tensor
    momentum: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    sent: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    algorithm: Mapping[str, Tensor | float] = field(default_factory=dict)
    earlier: tuple[Sent, ...] = ()
    origin: Origin = Origin()
    record: str = ""
    recorded: int = 0
    every: int = 1
