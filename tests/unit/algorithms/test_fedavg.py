"""Server step against formulas in float64, and what momentum leaves unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2pfl.algorithms.fedavg import ServerAverage, ServerOptions
from p2pfl.payload import FP32, Payload

W = torch.tensor([1.0, -2.0, 0.5, 4.0])
UPDATES = [torch.tensor(x) for x in ([1.5, -2.0, 0.0, 3.0], [0.5, -1.0, 1.0, 5.0], [3.0, 0.0, -0.5, 4.5])]


def server(codec: str = "fp32", **options: object) -> ServerAverage:
    return ServerAverage(W.clone(), torch.zeros(4), ServerOptions(wire_dtype=codec, **options))  # type: ignore[arg-type]


def step(made: ServerAverage, updates: list[torch.Tensor | None], shares: list[float]) -> None:
    """One round; None for an update that does not come."""
    made.outgoing()
    for update, share in zip(updates, shares, strict=True):
        if update is not None:
            pieces = update if made.encodings["x"] == FP32 else update.bfloat16()
            made.accumulate(Payload({"x": (pieces[:3], pieces[3:])}), share)  # as it comes, in chunks
    made.finish(complete=None not in updates)


def plain(updates: list[torch.Tensor | None], weights: list[float]) -> np.ndarray:
    came = [(u.double().numpy(), w) for u, w in zip(updates, weights, strict=True) if u is not None]
    return sum(u * w for u, w in came) / sum(w for _, w in came)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [5.0, 1.0, 2.0]], ids=["uniform", "by size"])
@pytest.mark.parametrize("missing", [None, 0, 1, 2])
def test_fedavg_is_the_weighted_mean_of_what_came(weights: list[float], missing: int | None) -> None:
    updates = [None if k == missing else u for k, u in enumerate(UPDATES)]
    made = server()
    for _ in range(2):  # nothing of the first round is left in the second
        step(made, updates, [w / sum(weights) for w in weights])
        np.testing.assert_allclose(made.x, plain(updates, weights), rtol=1e-6)


def test_one_client_is_copied() -> None:
    made = server()
    step(made, [UPDATES[0]], [1.0])
    assert torch.equal(made.x, UPDATES[0])
    step(made, [None, UPDATES[1]], [0.5, 0.5])
    assert torch.equal(made.x, UPDATES[1])


@pytest.mark.parametrize(("momentum", "lr"), [(0.9, 1.0), (0.5, 0.1), (0.0, 0.5)])
def test_fedavgm_two_rounds_by_hand(momentum: float, lr: float) -> None:
    made = server(momentum=momentum, lr=lr)
    first, second = UPDATES, [UPDATES[1], None, UPDATES[0]]
    w0 = W.double().numpy()
    v1 = plain(first, [1, 1, 1]) - w0
    w1 = w0 + lr * v1
    v2 = momentum * v1 + plain(second, [1, 1, 1]) - w1
    w2 = w1 + lr * v2
    step(made, first, [1 / 3] * 3)
    np.testing.assert_allclose(made.x, w1, rtol=1e-5)
    step(made, second, [1 / 3] * 3)
    np.testing.assert_allclose(made.x, w2, rtol=1e-5)
    np.testing.assert_allclose(made.velocity, v2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lr", [1.0, 2.0])
def test_running_statistics_get_neither_momentum_nor_the_servers_step(lr: float) -> None:
    made = server(momentum=0.9, lr=lr, statistics=[slice(1, 2), slice(3, 4)])
    for updates in (UPDATES, UPDATES[::-1], UPDATES):
        step(made, list(updates), [0.5, 0.25, 0.25])
        average = plain(list(updates), [0.5, 0.25, 0.25])
        np.testing.assert_allclose(made.x[1::2], average[1::2], rtol=1e-6)
    assert not np.allclose(made.x[::2], average[::2], rtol=0.01)


def test_bf16_moves_by_the_difference_of_what_was_rounded() -> None:
    made = server("bf16")
    made.x.mul_(1 + 2**-12)  # not to be had in bfloat16
    before = made.x.clone()
    rounded = before.bfloat16().float()
    assert not torch.equal(before, rounded)
    step(made, [rounded] * 3, [1 / 3] * 3)  # clients that learned nothing
    np.testing.assert_allclose(made.x, before, rtol=3e-7)
    step(made, UPDATES, [0.5, 0.25, 0.25])
    moved = plain([u.bfloat16().float() for u in UPDATES], [0.5, 0.25, 0.25]) - before.bfloat16().double().numpy()
    np.testing.assert_allclose(made.x, before.double().numpy() + moved, rtol=1e-5)


def test_bf16_with_momentum_and_a_missing_update() -> None:
    made = server("bf16", momentum=0.9, statistics=[slice(2, 3)])
    updates = [UPDATES[0], None, UPDATES[2]]
    w0 = W.double().numpy()
    v1 = plain(updates, [2, 1, 1]) - w0  # all of these are exact in bfloat16
    step(made, updates, [0.5, 0.25, 0.25])
    np.testing.assert_allclose(made.x, w0 + v1, rtol=1e-5)
    w1 = made.x.double().numpy()
    v2 = 0.9 * v1 + plain(updates, [2, 1, 1]) - made.x.bfloat16().double().numpy()
    step(made, updates, [0.5, 0.25, 0.25])
    expected = w1 + v2
    expected[2] -= 0.9 * v1[2]
    np.testing.assert_allclose(made.x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_what_was_sent_stays_when_the_model_moves(codec: str) -> None:
    """A message stays as it was sent, since a client may take it rounds later.

    So do the clients' updates.
    """
    made = server(codec)
    (first,) = made.outgoing().vectors["x"]
    kept, updates = first.clone(), [u.clone() for u in UPDATES]
    for _ in range(2):
        step(made, list(UPDATES), [1 / 3] * 3)
    assert torch.equal(first, kept)
    assert first.dtype == (torch.float32 if codec == "fp32" else torch.bfloat16)
    assert not torch.equal(made.x, W)
    assert all(torch.equal(a, b) for a, b in zip(updates, UPDATES, strict=True))


def test_the_model_and_its_momentum_are_written_in_place() -> None:
    x, velocity = W.clone(), torch.zeros(4)
    made = ServerAverage(x, velocity, ServerOptions(momentum=0.9))
    step(made, list(UPDATES), [1 / 3] * 3)
    assert made.x is x
    assert made.velocity is velocity
    assert velocity.abs().sum() > 0
