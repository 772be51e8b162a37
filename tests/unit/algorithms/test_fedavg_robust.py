"""Robust averages of the coordinator: Krum's choice, and hostile updates."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import random_vectors

from p2pfl.algorithms.fedavg import ServerAverage, ServerOptions
from p2pfl.algorithms.rules import krum, krum_index
from p2pfl.payload import FP32, Payload

SIZE = 12
START = torch.linspace(-1, 1, SIZE)


def server(averaging: str, byzantine: int, codec: str = "fp32", **options: object) -> ServerAverage:
    chosen = ServerOptions(wire_dtype=codec, averaging=averaging, byzantine=byzantine, **options)  # type: ignore[arg-type]
    return ServerAverage(START.clone(), torch.zeros(SIZE), chosen)


def step(made: ServerAverage, updates: list[torch.Tensor], missing: bool = False) -> torch.Tensor:
    made.outgoing()
    for number, update in enumerate(updates):
        sent = update if made.encodings["x"] == FP32 else update.bfloat16()
        # Shares by shard size would differ; a robust average heeds none.
        made.accumulate(Payload({"x": (sent[:5], sent[5:])}), 0.1 * (number + 1))
    made.finish(complete=not missing)
    return made.x


def close_by(count: int, seed: int = 0) -> list[torch.Tensor]:
    return [START + 0.1 * x for x in random_vectors(count, SIZE, seed)]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 99),
    byzantine=st.integers(1, 2),
    value=st.sampled_from([-1e3, 5.0, 1e30]),
    data=st.data(),
)
def test_krum_picks_an_honest_update(seed: int, byzantine: int, value: float, data: st.DataObject) -> None:
    count = 2 * byzantine + 3
    hostile = data.draw(st.sets(st.integers(0, count - 1), min_size=byzantine, max_size=byzantine))
    updates = close_by(count, seed)
    for k in hostile:  # all of them at the same place: as near to each other as can be
        updates[k] = torch.full((SIZE,), value)
    pick = krum_index([(update,) for update in updates], byzantine)
    assert pick not in hostile
    found = step(server("krum", byzantine), updates)
    assert torch.equal(found, updates[pick])


def test_krum_by_its_definition() -> None:
    for count, byzantine in ((4, 0), (5, 1), (6, 1), (9, 3)):
        updates = close_by(count, seed=count)
        squares = [[float(((a - b).double() ** 2).sum()) for b in updates] for a in updates]
        scores = [sum(sorted(row[:i] + row[i + 1 :])[: count - byzantine - 2]) for i, row in enumerate(squares)]
        assert len(set(scores)) == count
        assert krum_index([(x[:4], x[4:]) for x in updates], byzantine) == int(np.argmin(scores))
        order = list(reversed(range(count)))
        assert order[krum_index([(updates[k],) for k in order], byzantine)] == int(np.argmin(scores))


def test_krum_looks_at_as_many_neighbors_as_it_says() -> None:
    """With one neighbor less or more, Krum would choose another update."""
    updates = [torch.full((SIZE,), value) for value in (0.0, 5.0, 10.0, 10.1, 10.2)]
    assert krum_index([(update,) for update in updates], 1) == 3


def test_of_equal_scores_krum_takes_the_first_and_leaves_the_updates_alone() -> None:
    updates = [torch.full((SIZE,), value) for value in (9.0, 1.0, 1.0, 1.0, 1.0)]
    assert krum_index([(x,) for x in updates], 1) == 1
    blocks = list(krum([(x,) for x in updates], 1))
    assert torch.equal(blocks[0][1], updates[1])


@pytest.mark.parametrize("averaging", ["trimmed-mean", "median", "krum"])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_hostile_updates_do_not_lead_the_global_model_away(averaging: str, codec: str) -> None:
    updates = close_by(7)
    honest = torch.stack(updates[:5])
    for value in (1e3, -1e30):
        updates[5:] = [torch.full((SIZE,), value)] * 2
        for order in itertools.islice(itertools.permutations(updates), 0, 5000, 611):
            found = step(server(averaging, 2, codec), list(order))
            assert (found <= honest.amax(dim=0) + 0.02).all()
            assert (found >= honest.amin(dim=0) - 0.02).all()
        plain = step(server("uniform", 0, codec), updates)
        assert plain.abs().min() > 50


def test_trimming_nothing_is_the_mean_and_the_median_is_numpys() -> None:
    for count in (1, 4, 5):
        updates = close_by(count, seed=3)
        dense = np.stack([x.double().numpy() for x in updates])
        np.testing.assert_allclose(step(server("trimmed-mean", 0), updates), dense.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(step(server("median", 0), updates), np.median(dense, axis=0), atol=1e-6)


@pytest.mark.parametrize("averaging", ["trimmed-mean", "median", "krum"])
def test_a_missing_update_is_left_out_and_rounds_do_not_mix(averaging: str) -> None:
    made = server(averaging, 1)
    step(made, close_by(6, seed=1))
    found = step(made, close_by(5, seed=2), missing=True).clone()
    assert torch.equal(found, step(server(averaging, 1), close_by(5, seed=2)))


@pytest.mark.parametrize("averaging", ["trimmed-mean", "median", "krum"])
def test_updates_are_not_kept_longer_than_they_are_needed(averaging: str) -> None:
    made = server(averaging, 1)
    made.outgoing()
    kept = []
    for update in close_by(6):
        pieces = (update[:5], update[5:])
        kept += [weakref.ref(piece) for piece in pieces]
        made.accumulate(Payload({"x": pieces}), 1.0)
    del pieces
    assert [piece for piece in kept if piece() is None] == []
    made.finish(complete=True)
    assert [piece for piece in kept if piece() is not None] == []


def test_the_servers_momentum_takes_the_robust_average_for_its_target() -> None:
    made = server("median", 1, momentum=0.5, lr=0.5, statistics=[slice(0, 2)])
    updates = close_by(5)
    target = np.median(np.stack([x.numpy() for x in updates]), axis=0)
    first = step(made, updates).clone()
    np.testing.assert_allclose(first[2:], 0.5 * (target[2:] + START[2:].numpy()), atol=1e-6)
    np.testing.assert_allclose(first[:2], target[:2], atol=1e-6)


def test_bf16_clients_that_learned_nothing_leave_the_model_where_it_is() -> None:
    for averaging in ("trimmed-mean", "median", "krum"):
        made = server(averaging, 1, "bf16")
        made.x.mul_(1 + 2**-12)
        before = made.x.clone()
        step(made, [before.bfloat16().float()] * 5)
        torch.testing.assert_close(made.x, before, rtol=3e-7, atol=1e-7)
