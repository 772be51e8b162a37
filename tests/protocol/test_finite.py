"""Weights that are not finite: found at once, never sent, never averaged.

The error is one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start
from tests.support.one_client import idle, offering
from tests.support.one_coordinator import ALL, SIZE, all_ones, greeted, missing, model, offer
from tests.support.one_peer import X, chunk, message, peer_zero, sends
from tests.support.one_peer import greeted as network_greeted

from p2pfl import RunConfig, data, make_topology
from p2pfl.errors import ProtocolError, TrainingError
from p2pfl.model.sketches import sketch
from p2pfl.model.vector import is_finite, largest
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.worker import run
from p2pfl.payload import ENCODINGS
from p2pfl.protocol.events import Fail, Note, Received, Recorded, RoundDone, Train, Trained
from p2pfl.protocol.inbox import Inbox
from p2pfl.protocol.server_exchange import Federation
from p2pfl.protocol.wire import VERSION, Header, Message
from p2pfl.run.directory import create_run_dir
from p2pfl.run.records import read_rounds
from p2pfl.training import check_weights
from p2pfl.transport import MemoryHub, MemoryTransport

DTYPES = [torch.float32, torch.bfloat16]
NOT_FINITE = [math.nan, math.inf, -math.inf]
HUGE = {dtype: torch.finfo(dtype).max for dtype in DTYPES}
LENGTHS = [1, 3, 7, 16, 63, 1000, 1 << 16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_finite_is_known_as_such(dtype: torch.dtype, length: int) -> None:
    for value in (0.0, 1.0, -1.0, HUGE[dtype], -HUGE[dtype], 1e-40, -1e-40):
        assert is_finite(torch.full((length,), value, dtype=dtype)), value
    mixed = torch.full((length,), HUGE[dtype], dtype=dtype)
    mixed[::2] *= -1
    assert is_finite(mixed)
    assert largest(mixed) == pytest.approx(HUGE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("filling", ["zeros", "ones", "huge", "tiny"])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(
    dtype: torch.dtype, length: int, value: float, filling: str
) -> None:
    fill = {"zeros": 0.0, "ones": -1.0, "huge": HUGE[dtype], "tiny": 1e-40}[filling]
    for place in {0, length // 2, length - 1}:
        vector = torch.full((length,), fill, dtype=dtype)
        vector[place] = value
        assert not is_finite(vector), place
        assert not math.isfinite(largest(vector))


def test_opposite_infinities_do_not_cancel_and_nothing_is_finite() -> None:
    assert not is_finite(torch.tensor([math.inf, -math.inf]))
    assert not is_finite(torch.tensor([math.nan, math.inf, 1.0]))
    assert is_finite(torch.zeros(0))
    assert largest(torch.zeros(0)) == 0.0


# Never averaged when received


def received(values: torch.Tensor, start: int = 0, round: int = 1, codec: str = "fp32", sender: int = 3) -> Message:
    body = values.view(torch.uint8).numpy().tobytes()
    offset = start * values.element_size()
    header = Header(VERSION, "run", "chunk", sender, round, codec, "layout", "x", offset, len(body))  # type: ignore[arg-type]
    return Message(header, body)


class Form:
    def __init__(self, codec: str) -> None:
        self.encodings = {"x": ENCODINGS[codec]}


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_an_inbox_takes_no_chunk_that_is_not_finite(codec: str, value: float) -> None:
    dtype = torch.float32 if codec == "fp32" else torch.bfloat16
    box = Inbox(8, lambda round: Form(codec), 9)  # type: ignore[arg-type, return-value]
    box.open(1, 3)
    good, bad = torch.ones(4, dtype=dtype), torch.ones(4, dtype=dtype)
    bad[2] = value
    assert not box.add(received(good, codec=codec))
    with pytest.raises(ProtocolError, match=r"^values: not finite"):
        box.add(received(bad, 4, codec=codec))
    assert not box.is_whole(1, 3)
    part, whole = box.take_part(1, 3)
    assert not whole
    assert part is not None
    assert torch.cat(list(part.vectors["x"])).tolist() == [1.0] * 4, "nothing of the bad chunk"
    assert box.add(received(good, 4, codec=codec)), "the same place is still open"


def test_a_peer_puts_its_own_vector_in_the_place_of_one_that_is_not_finite() -> None:
    made = peer_zero()
    network_greeted(made)
    made.handle(Trained(), 1.0)
    actions = made.handle(bad_chunk(1, 1), 1.0)
    assert ("ack", 1, 1) in sends(actions), "the neighbor may continue"
    for sender in (1, 3):
        made.handle(message("grant", sender, 1), 1.0)
        made.handle(message("ack", sender, 1), 1.0)
    (done,) = [a for a in made.handle(chunk(3, 1), 1.0) if isinstance(a, RoundDone)]
    assert done.x is not None
    assert torch.allclose(done.x, (2 * X + 1) / 3)
    assert made.facts["absent"] == ["one"]
    assert made.refused == {"values": 1}


def bad_chunk(sender: int, round: int, start: int = 0, stop: int = SIZE) -> Received:
    values = torch.ones(stop - start)
    values[-1] = math.nan
    return message("chunk", sender, round, values.numpy().tobytes(), codec="fp32", vector="x", offset=4 * start)


def test_a_coordinator_continues_at_once_without_an_update_that_is_not_finite() -> None:
    made = greeted()
    offer(made, *range(6))
    made.handle(chunk(1, 1, 0, 4), 1.0)
    actions = made.handle(bad_chunk(1, 1, 4, SIZE), 1.0)
    assert ("ack", 1, 1) in sends(actions), "the client is free"
    assert [a.text for a in actions if isinstance(a, Note) and a.matters] == [
        "round 1 continues without one: its update is not finite"
    ]
    assert made.refused == {"values": 1}
    assert missing(made) == ["one"]
    for client in (0, 2, 3, 4, 5):
        last = made.handle(chunk(client, 1), 1.0)
    assert last[-1] == RoundDone(1)
    assert all_ones(model(made))


def test_updates_that_are_not_finite_do_not_count_towards_the_minimum() -> None:
    made = greeted(Federation(ALL.weights, ALL.selected, ALL.seed, min_updates=ALL.selected))
    offer(made, *range(6))
    made.handle(bad_chunk(0, 1), 1.0)
    for client in range(1, 6):
        last = made.handle(chunk(client, 1), 1.0)
    assert isinstance(last[-1], Fail)
    assert "--min-updates" in last[-1].reason
    assert "zero" in last[-1].reason


def test_a_client_refuses_a_model_that_is_not_finite_and_asks_for_a_later_one() -> None:
    made = idle()
    assert made.handle(chunk(6, 3, 0, 4), 0.0) == []
    actions = made.handle(bad_chunk(6, 3, 4, SIZE), 0.0)
    assert sends(actions) == [("grant", 6, 4)]
    assert made.refused == {"values": 1}
    assert made.stage == "idle"
    assert sends(made.handle(chunk(6, 3, 4, SIZE), 0.0)) == [("ack", 6, 3)], "what is refused stays refused"
    assert made.stage == "idle"
    assert made.handle(chunk(6, 4), 0.0)[-1] == Train(4, load=True)


def test_a_client_at_work_asks_for_a_later_model_when_it_is_done() -> None:
    made = offering(1)
    actions = made.handle(bad_chunk(6, 2), 1.0)
    assert sends(actions) == []
    assert sends(made.handle(message("ack", 6, 1), 1.0)) == [("grant", 6, 3)]
    made.handle(Recorded(), 2.0)
    assert made.stage == "idle"


def test_a_coordinator_continues_at_once_without_a_client_that_refused_its_model() -> None:
    made = greeted()
    assert made.progress[1] == "sent"
    assert sends(made.handle(message("grant", 1, 1), 0.0)) == [("heartbeat", 1, 1)], "said again"
    assert missing(made) == []
    made.handle(message("grant", 1, 2), 0.0)
    assert missing(made) == ["one"]


def test_losses_without_measure_do_not_stop_the_coordinator() -> None:
    made = greeted()
    offer(made, *range(6))
    for client in range(6):
        last = made.handle(chunk(client, 1, scalars={"loss": 1.7e308, "samples": 10.0}), 1.0)
    assert last[-1] == RoundDone(1)
    assert math.isfinite(made.facts["train_loss"])


# Never sent


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_weights_are_checked_before_they_travel(codec: str, value: float) -> None:
    weights = torch.zeros(1000)
    check_weights(weights, codec, "now")  # type: ignore[arg-type]
    weights[999] = value
    with pytest.raises(TrainingError, match="not finite now; lower --lr"):
        check_weights(weights, codec, "now")  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_sketch_of_the_weights_spares_a_look_but_hides_nothing(codec: str) -> None:
    for value in NOT_FINITE:
        weights = torch.zeros(300_000)
        weights[123_456] = value
        with pytest.raises(TrainingError, match="not finite now; lower --lr"):
            check_weights(weights, codec, "now", sketch(weights.numpy(), 0))  # type: ignore[arg-type]
    weights = torch.full((300_000,), 3e38)
    own = sketch(weights.numpy(), 0)
    assert not np.isfinite(own).all(), "sums overflow"
    check_weights(weights, codec, "now", own)  # type: ignore[arg-type]


def test_numbers_that_cancel_in_a_sketch_are_still_too_large_for_bfloat16() -> None:
    weights = torch.zeros(300_000)
    weights[5] = HUGE[torch.float32]
    own = sketch(weights.numpy(), 0)
    assert np.isfinite(own).all()
    check_weights(weights, "fp32", "now", own)
    with pytest.raises(TrainingError, match="too large for --wire-dtype bf16"):
        check_weights(weights, "bf16", "now", own)


def test_the_limit_of_bfloat16_is_where_rounding_gives_infinity() -> None:
    limit = torch.tensor([3.3961775e38], dtype=torch.float32)  # halfway between the last number and infinity
    below = torch.nextafter(limit, torch.zeros(1))
    for sign in (1.0, -1.0):
        assert torch.isinf((sign * limit).bfloat16())
        assert not torch.isinf((sign * below).bfloat16())
        check_weights(sign * below, "bf16", "now")
        check_weights(sign * limit, "fp32", "now")
        with pytest.raises(TrainingError, match="too large for --wire-dtype bf16"):
            check_weights(sign * limit, "bf16", "now")


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


OVERFLOWS = [
    ([], "inf", "the weights are not finite after training in round 3"),
    (["--order", "overlapped"], "nan", "the weights are not finite after training in round 3"),
    (["--wire-dtype", "bf16"], "3.4e38", "is too large for --wire-dtype bf16"),
]


@pytest.mark.processes
@pytest.mark.parametrize(("options", "value", "said"), OVERFLOWS, ids=["infinite", "overlapped", "bf16"])
def test_a_peer_whose_weights_overflow_ends_the_run_in_one_line(
    tmp_path: Path, start: Callable[..., Swarm], options: list[str], value: str, said: str
) -> None:
    words = [*FAST, "--model", "user_models:overflowing", "--local-steps", "2", "--rounds", "50", *options]
    swarm = start(ring(tmp_path), *words, "--run-dir", str(tmp_path / "run"), USER_MODEL_OVERFLOWS_TO=value)
    swarm.until("starting")
    family = swarm.family()
    code, err = swarm.end()
    assert code == 1
    assert said in one_line(err)
    assert "lower --lr" in err
    assert "--resume" not in err, "it would only fail again"
    nobody_left(swarm, family)
    for peer in range(3):
        assert [record.round for record in read_rounds(tmp_path / "run" / "peers" / str(peer))] == [1, 2]


def test_a_peer_that_sends_nothing_looks_at_its_weights_before_they_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker of mode local in this process: the round is not recorded or saved."""
    monkeypatch.setenv("USER_MODEL_OVERFLOWS_TO", "inf")
    options = {"dataset": "digits", "model": "user_models:overflowing", "batch_size": 8, "local_steps": 2, "rounds": 3}
    config = RunConfig.of(mode="local", run_dir=str(tmp_path / "run"), threads=1, **options)
    topology = make_topology("ring", 3)
    run_dir = create_run_dir(topology, config)
    dataset = data.prepare("digits", None, lambda *_: None)
    spec = messages.WorkerSpec(config, run_dir, dataset, 0, "run", "settings", "here", endpoints={})
    said: list[messages.FromWorker] = []
    hub = MemoryHub()
    assert run(spec, said.append, Control(), lambda bind: MemoryTransport(hub, bind)) == 1
    why = "the weights are not finite at the end of round 3; lower --lr"
    assert said[-1] == messages.Failed(why, resumable=False, diverged=True)
    peer_dir = run_dir / "peers" / "0"
    assert [record.round for record in read_rounds(peer_dir)] == [1, 2]
    assert not list(peer_dir.glob("checkpoint/*3.safetensors"))


@pytest.mark.processes
def test_initial_weights_that_are_not_finite_are_bad_input(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    words = [*FAST, "--model", "user_models:overflowing", "--run-dir", str(tmp_path / "run")]
    swarm = start(ring(tmp_path), *words, USER_MODEL_BEGINS_INFINITE="1")
    code, err = swarm.end()
    assert code == 2
    assert "--model user_models:overflowing: its initial weights are not finite" in one_line(err)


@pytest.mark.processes
def test_a_learning_rate_that_is_too_high_ends_the_run_in_one_line(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    words = [
        *FAST,
        "--local-steps",
        "20",
        "--rounds",
        "50",
        "--lr",
        "1000",
        "--weight-decay",
        "1",
        "--schedule",
        "constant",
    ]
    swarm = start(ring(tmp_path), *words, "--run-dir", str(tmp_path / "run"))
    code, err = swarm.end()
    assert code == 1
    assert "lower --lr" in one_line(err)
