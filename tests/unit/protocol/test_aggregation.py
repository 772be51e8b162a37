"""Vectors in shared memory that are accumulated together, block by block."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.helpers import matrix, random_vectors, schedules_of

from p2pfl.algorithms import DPSGD, Algorithm, Chebyshev
from p2pfl.algorithms.attacks import Attacking, sign_flip
from p2pfl.algorithms.averaged_momentum import AveragedMomentum
from p2pfl.algorithms.base import RoundContext
from p2pfl.algorithms.blockwise import BLOCK
from p2pfl.algorithms.exact_diffusion import ExactDiffusion
from p2pfl.algorithms.relay_sum import RelaySum
from p2pfl.payload import FP32, Borrowed, Encoding, Payload
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.inbox import Inbox
from p2pfl.protocol.wire import VERSION, Header, Message

PEERS = 5
SIZE = 2 * BLOCK + 5  # elements: two blocks and some


@dataclass(frozen=True)
class Watched:
    """Algorithm that notes who is accumulated."""

    inner: Algorithm[Any]
    order: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def accumulate(self, state: Any, sender: int, part: Payload) -> None:
        self.order.append(sender)
        self.inner.accumulate(state, sender, part)


def named(algorithm: Algorithm[Any]) -> str:
    """Identifier of a test: the same in every process, unlike an address."""
    return type(algorithm).__name__


class Mixing:
    """One peer of a full mesh in its first round, and all vectors of the others."""

    def __init__(self, algorithm: Algorithm[Any], me: int, granted: Sequence[int] | None = None) -> None:
        self.algorithm = Watched(algorithm)
        self.me = me
        schedules = schedules_of(matrix("complete", PEERS))
        self.context = RoundContext(1, schedules[me](1), lr_sum=0.1, steps=1)
        sent = {}
        for peer, x in enumerate(random_vectors(PEERS, SIZE)):
            state = algorithm.init(x, schedules[peer])
            payloads = algorithm.outgoing(state, RoundContext(1, schedules[peer](1), lr_sum=0.1, steps=1))
            if peer == me:
                self.state = state
            else:
                sent[peer] = payloads[me]
        self.memories = {
            sender: {name: pieces[0].view(torch.uint8).numpy().copy() for name, pieces in payload.vectors.items()}
            for sender, payload in sent.items()
        }
        self.scalars = {sender: dict(payload.scalars) for sender, payload in sent.items()}
        self.inbox = Inbox(SIZE, lambda _: algorithm, 1)
        for sender in sent if granted is None else granted:
            self.inbox.open(1, sender)
        self.aggregation = RoundAggregation(
            self.algorithm, self.state, self.inbox, 1, me, list(self.context.neighborhood.incoming)
        )
        self.aggregation.expected = set(sent)

    def receive(self, sender: int, is_shared: bool = True) -> int:
        """Take a sender's payload, and fold."""
        encodings = self.algorithm.encodings
        for name, memory in self.memories[sender].items():
            header = Header(
                VERSION, "run", "chunk", sender, 1, encodings[name].name, "layout", name, 0, memory.nbytes,
                scalars=self.scalars[sender],
            )  # fmt: skip
            self.inbox.add(Message(header, memory.data if is_shared else bytearray(memory), is_shared=is_shared))
        return self.aggregation.fold()

    def end(self) -> torch.Tensor:
        assert self.aggregation.is_complete
        return self.algorithm.finish(self.state, self.context).clone()


def in_order(algorithm: Algorithm[Any], me: int) -> torch.Tensor:
    """The mix where each vector comes as a message, one after the other."""
    mixing = Mixing(algorithm, me)
    for sender in mixing.memories:
        mixing.receive(sender, is_shared=False)
    return mixing.end()


ALGORITHMS = [
    *(DPSGD(overlapped, wire) for overlapped in (False, True) for wire in ("fp32", "bf16")),
    Chebyshev(0.5),
    ExactDiffusion(),
    AveragedMomentum(),
    RelaySum(PEERS),
    Attacking(DPSGD(), sign_flip(), lambda round: True),
]


@pytest.mark.parametrize("me", [0, 2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=named)
def test_the_bits_are_those_of_one_after_the_other(algorithm: Algorithm[Any], me: int) -> None:
    wanted = in_order(algorithm, me)
    draw = random.Random(0)
    for _ in range(3):
        mixing = Mixing(algorithm, me)
        arrivals = draw.sample(list(mixing.memories), PEERS - 1)
        for sender in arrivals:
            mixing.receive(sender, is_shared=draw.random() < 0.8)
        assert torch.equal(mixing.end(), wanted), arrivals


def test_blocks_of_all_vectors_alternate() -> None:
    mixing = Mixing(Chebyshev(0.5), me=2)
    for sender in (4, 3, 1):
        assert mixing.receive(sender) == 0
    assert mixing.receive(0) == PEERS
    assert mixing.algorithm.order == [0, 1, 2, 3, 4] * 3


@pytest.mark.parametrize("algorithm", [AveragedMomentum(), Attacking(AveragedMomentum(), sign_flip(), bool)], ids=named)
@pytest.mark.parametrize("odd", [0, 1, 3])
def test_a_sender_whose_vectors_come_in_another_order_changes_nothing(algorithm: Algorithm[Any], odd: int) -> None:
    """As where the first was lost on its way, or by a malicious sender."""
    ends = []
    for is_shared in (True, False):
        mixing = Mixing(algorithm, 2)
        mixing.memories[odd] = dict(reversed(mixing.memories[odd].items()))
        for sender in reversed(mixing.memories):
            mixing.receive(sender, is_shared)
        ends.append(mixing.end())
    assert torch.equal(*ends)


@dataclass(frozen=True)
class Counting(Algorithm[dict[str, Any]]):
    """Algorithm that notes the parts of the own contribution."""

    own_vectors: tuple[str, ...]
    streaming: bool = True
    parts: list[tuple[list[str], dict[str, float]]] = field(default_factory=list)

    @property
    def encodings(self) -> dict[str, Encoding]:
        return {"x": FP32, "z": FP32}

    def init(self, x: torch.Tensor, schedule: Any) -> dict[str, Any]:
        return {"x": x}

    def outgoing(self, state: dict[str, Any], ctx: RoundContext) -> dict[int, Payload]:
        state["me"] = ctx.neighborhood.me
        sent = Payload({"x": (state["x"],), "z": (state["x"],)}, {"weight": 1.0})
        return dict.fromkeys(ctx.neighborhood.outgoing, sent)

    def own(self, state: dict[str, Any]) -> Payload:
        return Payload(dict.fromkeys(self.own_vectors, (state["x"],)), {"weight": 1.0})

    def accumulate(self, state: dict[str, Any], sender: int, part: Payload) -> None:
        if sender == state["me"]:
            self.parts.append((list(part.vectors), dict(part.scalars)))


def test_scalars_come_with_the_first_part_of_the_own_contribution_too() -> None:
    algorithm = Counting(("z", "x"))
    mixing = Mixing(algorithm, me=2)
    for sender in reversed(mixing.memories):
        mixing.receive(sender)
    assert mixing.aggregation.is_complete
    assert algorithm.parts == [
        (["x"], {"weight": 1.0}),
        *[(["x"], {})] * 2,
        *[(["z"], {})] * 3,
    ], "cut and ordered as the others' are"


def test_an_own_contribution_may_have_no_vectors() -> None:
    algorithm = Counting(())
    mixing = Mixing(algorithm, me=2)
    for sender in reversed(mixing.memories):
        mixing.receive(sender)
    assert mixing.aggregation.is_complete
    assert algorithm.parts == [([], {"weight": 1.0})]


class Halving(DPSGD):
    """D-PSGD with half of what neighbors send."""

    def accumulate(self, state: Any, sender: int, part: Payload) -> None:
        super().accumulate(state, sender, Payload({"x": [piece / 2.0 for piece in part.vectors["x"]]}))


def test_an_algorithm_that_overrides_accumulate_gets_all_numbers_there() -> None:
    wanted = in_order(Halving(), 2)
    mixing = Mixing(Halving(), 2)
    for sender in reversed(mixing.memories):
        mixing.receive(sender)
    assert torch.equal(mixing.end(), wanted)


def test_vectors_in_memory_wait_no_longer_than_for_the_first_chunk_of_the_next() -> None:
    mixing = Mixing(DPSGD(), me=4)
    assert mixing.receive(0) == 0
    assert not mixing.aggregation.takes_part_of(2, 1)
    memory = mixing.memories[1]["x"]
    body = bytearray(memory[: 4 * BLOCK])
    mixing.inbox.add(
        Message(Header(VERSION, "run", "chunk", 1, 1, "fp32", "layout", "x", 0, len(body)), body)
    )  # fmt: skip
    assert mixing.aggregation.takes_part_of(1, 1)
    assert mixing.aggregation.fold() == 1
    assert mixing.aggregation.following == 1


def test_what_came_as_messages_does_not_wait() -> None:
    mixing = Mixing(DPSGD(), me=2)
    assert mixing.receive(0, is_shared=False) == 1
    assert mixing.receive(1) == 0
    assert mixing.receive(3, is_shared=False) == 3, "1 waited for 3 in vain, and this peer's vector is between them"


def test_nobody_waits_for_a_vector_that_has_no_credit() -> None:
    mixing = Mixing(DPSGD(), me=4, granted=[0, 1])
    assert mixing.receive(0) == 0
    assert mixing.receive(1) == 2, "2 gets credit after this"


def test_nobody_waits_for_a_neighbor_that_is_not_expected() -> None:
    mixing = Mixing(DPSGD(), me=4)
    for sender in (0, 1):
        assert mixing.receive(sender) == 0
    mixing.aggregation.expected = {0, 1, 3}
    assert mixing.aggregation.fold() == 3
    assert mixing.aggregation.replaced == [2]
    mixing.receive(3)
    mixing.end()


@pytest.mark.parametrize("algorithm", [DPSGD(), DPSGD(wire_dtype="bf16"), Chebyshev(0.5)], ids=named)
@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize(("bad", "me"), [(0, 2), (0, 4), (1, 0), (1, 2), (3, 0), (3, 2), (3, 4)])
def test_a_vector_that_is_spoiled_amid_the_others_is_replaced_from_there_on(
    algorithm: Algorithm[Any], bad: int, me: int, place: int
) -> None:
    """To the same bits as where it comes after the others, up to its first bad block."""
    ends = []
    for is_together in (True, False):
        mixing = Mixing(algorithm, me)
        vector = mixing.memories[bad]["x"].view(
            np.float32 if mixing.algorithm.encodings["x"].item_bytes == 4 else np.uint16
        )
        vector[place] = math.nan if vector.dtype == np.float32 else 0x7FC0
        senders = list(mixing.memories)
        for sender in reversed(senders) if is_together else senders:
            mixing.receive(sender, is_shared=is_together or sender == bad)
        assert mixing.aggregation.take_unusable() == [bad]
        assert mixing.aggregation.replaced == [bad]
        assert mixing.aggregation.is_complete
        ends.append(mixing.end())
    assert torch.equal(*ends)
    assert bool(ends[0].isfinite().all())


@pytest.mark.parametrize("algorithm", [DPSGD(), DPSGD(wire_dtype="bf16")], ids=["fp32", "bf16"])
@pytest.mark.parametrize("granted", [None, [0, 1]])
def test_a_sum_that_overflows_is_that_of_one_after_the_other(
    algorithm: Algorithm[Any], granted: Sequence[int] | None
) -> None:
    """All numbers are finite, so no vector is given up."""
    ends = []
    for is_shared in (True, False):
        mixing = Mixing(algorithm, 4, granted)
        mixing.state.neighborhood = replace(mixing.state.neighborhood, incoming=dict.fromkeys(range(4), 1.0))
        for memory in mixing.memories.values():
            numbers = torch.from_numpy(memory["x"]).view(mixing.algorithm.encodings["x"].dtype)
            numbers[BLOCK + 1] = 3e38
        for sender in mixing.memories:
            if not mixing.inbox.is_granted(1, sender):
                mixing.inbox.open(1, sender)
            mixing.receive(sender, is_shared)
        assert mixing.aggregation.take_unusable() == []
        ends.append(mixing.end())
    assert torch.equal(*ends)
    assert (~ends[0].isfinite()).nonzero().tolist() == [[BLOCK + 1]]


def test_numbers_are_read_once() -> None:
    """So that an owner that writes meanwhile can send no more than by messages."""
    mixing = Mixing(DPSGD(), 2)
    reads = []

    class Counted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs)
            if func in (torch.mul, torch.Tensor.add_):
                reads.append([type(arg) for arg in args].count(Counted))
            else:
                assert func in (torch.Tensor.numel, torch.Tensor.dtype.__get__), "not what looks at the numbers"
            return result

    blocks = {sender: torch.full((7,), float(sender)).as_subclass(Counted) for sender in (0, 1, 3)}
    parts = {sender: Payload({"x": Borrowed([block])}) for sender, block in blocks.items()}
    own = Payload({"x": (mixing.state.buffers.sent[:7],)})
    assert DPSGD().add_borrowed(mixing.state, {**parts, 2: own})
    assert reads == [1, 1, 1]
