"""Events that transports and drivers report, and actions that they carry out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pfl.errors import NeighborCode, Refusal
from p2pfl.payload import LocalTraining
from p2pfl.protocol.wire import Message

if TYPE_CHECKING:
    from torch import Tensor

# Events: transports and the driver report what happened.


@dataclass(frozen=True)
class Started:
    """The links stand; the peer may greet its neighbors."""


@dataclass(frozen=True)
class Received:
    """A well-formed message came in; its receiver judges whose it is.

    `size`: bytes of both frames, where they were counted.
    """

    message: Message
    size: int = 0


@dataclass(frozen=True)
class Refused:
    """Bytes were no message, or a connection was refused; `detail` is for people."""

    code: Refusal
    detail: str


@dataclass(frozen=True)
class Trained:
    """This round's local training is done; x has moved.

    loss: mean of its steps. samples, steps: training samples processed, optimizer steps taken. lr: of the last step.
    lr_sum: sum of the learning rates of all steps.
    """

    loss: float = 0.0
    samples: int = 0
    steps: int = 0
    lr: float = 0.0
    lr_sum: float = 0.0


@dataclass(frozen=True)
class Flushed:
    """No body of a `Send` is still being sent: buffers behind them may change."""


@dataclass(frozen=True)
class Recorded:
    """The finished round has been evaluated, recorded and saved."""


@dataclass(frozen=True)
class Reconnected:
    """The connection to a neighbor broke, maybe lost messages, and stands again."""

    neighbor: int


@dataclass(frozen=True)
class Lost:
    """The connection to a neighbor has been broken for longer than the grace period."""

    neighbor: int


@dataclass(frozen=True)
class Tick:
    """Time has passed; `Logic.deadline` says when this is worth sending."""


TransportEvent = Received | Refused | Reconnected | Lost
Event = Started | Received | Refused | Trained | Flushed | Recorded | Reconnected | Lost | Tick


# Actions: the driver carries them out in order.


@dataclass(frozen=True)
class Send:
    """Give a message to the transport."""

    neighbor: int
    message: Message


@dataclass(frozen=True)
class Discard:
    """Throw away what is on its way to a neighbor, so that buffers get free."""

    neighbor: int


@dataclass(frozen=True)
class Train:
    """Start local training, and report `Trained`. `load`: x was written meanwhile."""

    round: int
    load: bool = False
    request: LocalTraining = field(default_factory=LocalTraining, compare=False)  # it may hold tensors


@dataclass(frozen=True)
class RoundDone:
    """Evaluate if due, record and save x, the round's result; report `Recorded`.

    A peer says which tensor that is; a client's and a coordinator's always stay the same.
    """

    round: int
    x: Tensor | None = field(default=None, compare=False)  # tensors compare element by element


@dataclass(frozen=True)
class Note:
    """Something for the log; `matters`: and for whoever watches the run."""

    text: str
    matters: bool = False


@dataclass(frozen=True)
class Finish:
    """All is done, every neighbor has what it needs, goodbye is said."""


@dataclass(frozen=True)
class Fail:
    """The run cannot continue; one line says why.

    `resumable`: whether it may get further when it is resumed.

    `usage`: what the process was started with is to blame. `code` and `peers`: in which way which neighbors are.
    """

    reason: str
    resumable: bool = True
    usage: bool = False
    code: NeighborCode | None = None
    peers: tuple[int, ...] = ()


Action = Send | Discard | Train | RoundDone | Note | Finish | Fail
