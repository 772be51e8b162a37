"""All algorithms: the same bits from shared memory as from messages."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import torch
from tests.support.helpers import matrix, schedules_of

from p2pfl import RunConfig, registry
from p2pfl.algorithms import build_algorithm
from p2pfl.algorithms.base import RoundContext
from p2pfl.payload import Payload
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.inbox import Inbox, Senders
from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Message, chunks

PEERS = 3
SIZE = CHUNK_BYTES // 4 + 100  # two chunks


def messages(
    payload: Payload, encodings: dict[str, str], sender: int, round: int, is_shared: bool
) -> Iterator[Message]:
    """A payload in chunks, or each vector as one in memory that nobody here can write."""
    for name, (vector,) in payload.vectors.items():
        template = Header(VERSION, "run", "chunk", sender, round, encodings[name], scalars=dict(payload.scalars))
        body = vector.clone().view(torch.uint8).numpy()
        first, *rest = chunks(template, {name: body.data})
        if is_shared:
            body.flags.writeable = False
            header = msgspec.structs.replace(first.header, length=body.nbytes)
            yield Message(header, body.data, is_shared=True)
        else:
            yield from (Message(one.header, bytearray(one.body)) for one in (first, *rest))


def mixed(name: str, is_shared: bool) -> torch.Tensor:
    """The peers' vectors after two rounds without training."""
    byzantine = 1 if name == "trimmed-mean" else None
    algorithm = build_algorithm(RunConfig.of(algorithm=name, byzantine=byzantine), PEERS)
    encodings = {vector: encoding.name for vector, encoding in algorithm.encodings.items()}
    schedules = schedules_of(matrix("complete", PEERS))
    vectors = [torch.randn(SIZE, generator=torch.Generator().manual_seed(peer)) for peer in range(PEERS)]
    states = [algorithm.init(x, schedule) for x, schedule in zip(vectors, schedules, strict=True)]
    for round in (1, 2):
        contexts = [RoundContext(round, schedule(round), 1, 8, 1.0, 0.1, 0.1) for schedule in schedules]
        sent = [algorithm.outgoing(state, ctx) for state, ctx in zip(states, contexts, strict=True)]
        for me, (state, ctx) in enumerate(zip(states, contexts, strict=True)):
            inbox = Inbox(SIZE, lambda round: algorithm, 9)
            senders = sorted(ctx.neighborhood.incoming)
            aggregation = RoundAggregation(algorithm, state, inbox, round, me, senders)
            aggregation.expected = senders
            inbox.grant(round, Senders(senders), Senders())
            for sender in senders:
                for message in messages(sent[sender][me], encodings, sender, round, is_shared):
                    inbox.add(message)
                    aggregation.fold()
            aggregation.fold()
            assert aggregation.is_complete
            assert not aggregation.replaced
        vectors = [algorithm.finish(state, ctx).clone() for state, ctx in zip(states, contexts, strict=True)]
    return torch.stack(vectors)


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_an_algorithm_has_the_same_bits_from_shared_memory(name: str) -> None:
    assert torch.equal(mixed(name, is_shared=True), mixed(name, is_shared=False))
