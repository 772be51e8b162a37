"""Payloads, mixes and requests of a user's algorithm are checked where made.

Neighbors would refuse a wrong one, and wait for a right one until a timeout.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.helpers import matrix, schedules_of

from p2pfl.algorithms import DPSGD
from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.errors import ConfigError
from p2pfl.payload import LocalTraining, Payload
from p2pfl.protocol.mixer import Mixer, Phases

SIZE = 6
SCHEDULE = schedules_of(matrix("ring", 4))[0]
CTX = RoundContext(1, SCHEDULE(1), steps=1, lr=0.1, lr_sum=0.1)


def slip(method: str, instead: Callable[..., Any]) -> Algorithm[Any]:
    """D-PSGD with another method."""
    return type("Slip", (DPSGD,), {method: instead, "__module__": "mine"})()


def sends(payload: Callable[[torch.Tensor], Payload]) -> Algorithm[Any]:
    """D-PSGD that sends something else to all its neighbors."""
    return slip("outgoing", lambda self, state, ctx: dict.fromkeys(ctx.neighborhood.outgoing, payload(state.buffers.x)))


def begin(algorithm: Algorithm[Any]) -> Mixer:
    return Mixer(Phases(algorithm, DPSGD(), 3), torch.zeros(SIZE), SCHEDULE, [1, 3])


PAYLOADS = [
    (sends(lambda x: Payload({"y": [x]})), r"a payload has the vectors \['y'\], and `encodings` names \['x'\]"),
    (sends(lambda x: Payload({"x": [x[1:]]})), r"'x' of a payload is a float32 tensor of shape \(5,\) .* 6 numbers"),
    (sends(lambda x: Payload({"x": [x.double()]})), "'x' of a payload is a float64 tensor .* needs float32"),
    (sends(lambda x: Payload({"x": [x[:2], x[2:]]})), "'x' of a payload is not given as one piece"),
    (sends(lambda x: Payload({"x": x})), "'x' of a payload is not given as one piece"),
    (sends(lambda x: Payload({"x": [x]}, {"a": float("nan")})), "the scalar 'a' of a payload is nan"),
    (slip("outgoing", lambda self, state, ctx: {1: state.buffers.payload}), r"the peers \[1\]; its .* are \[1, 3\]"),
]


@pytest.mark.parametrize(("algorithm", "message"), PAYLOADS)
def test_a_payload_that_cannot_travel_is_named(algorithm: Algorithm[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^--algorithm mine:Slip: .*{message}") as caught:
        begin(algorithm).offer(CTX, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mix", "found"),
    [
        (lambda x: x[1:], r"a float32 tensor of shape \(5,\)"),
        (lambda x: x.double(), "a float64 tensor"),
        (lambda x: None, "NoneType"),
        (lambda x: torch.zeros(2 * SIZE)[::2], r"a float32 tensor of shape \(6,\) on cpu, not contiguous"),
    ],
)
def test_a_mix_that_cannot_be_trained_is_named(mix: Callable[[torch.Tensor], Any], found: str) -> None:
    mixer = begin(slip("finish", lambda self, state, ctx: mix(state.buffers.x)))
    mixer.offer(CTX, [])
    with pytest.raises(ConfigError, match=f"^--algorithm mine:Slip: finish returns {found}.* vector of 6 numbers"):
        mixer.finish(CTX, [])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda asked: None, "request returns NoneType in place of a LocalTraining"),
        (lambda asked: replace(asked, momentum=torch.zeros(5)), re.escape("momentum of a request is a float32 tensor")),
        (lambda asked: replace(asked, correction=torch.zeros(6).double()), "correction of a request is a float64 tens"),
    ],
)
def test_a_request_that_training_cannot_meet_is_named(request_: Callable[[LocalTraining], Any], message: str) -> None:
    mixer = begin(slip("request", lambda self, state, ctx, asked: request_(asked)))
    with pytest.raises(ConfigError, match=f"^--algorithm mine:Slip: {message}"):
        mixer.request(CTX, LocalTraining())


def test_a_state_that_cannot_be_saved_is_named() -> None:
    mixer = begin(slip("state_dict", lambda self, state: {"velocity": [1.0, 2.0]}))
    with pytest.raises(ConfigError, match=r"^--algorithm mine:Slip: state_dict has 'velocity': list, neither a tensor"):
        mixer.state_dict()
