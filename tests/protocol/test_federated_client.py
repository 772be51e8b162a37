"""A client by itself: what it says when, what it says again, and when it ends."""

from __future__ import annotations

import math

import pytest
import torch
from tests.support.one_client import CLIENT, SIZE, a_client, idle, offering, vector
from tests.support.one_peer import chunk, message, only_fail, sends

from p2pfl.protocol.client import Client
from p2pfl.protocol.events import (
    Finish,
    Flushed,
    Lost,
    Note,
    Reconnected,
    Recorded,
    RoundDone,
    Started,
    Tick,
    Train,
    Trained,
)


def test_a_clients_round_action_by_action() -> None:
    made = idle()
    assert made.handle(chunk(6, 4, 0, 3), 0.0) == []
    actions = made.handle(chunk(6, 4, 3, 8), 0.0)
    assert sends(actions) == [("ack", 6, 4)]
    assert actions[-1] == Train(4, load=True)
    assert torch.equal(vector(made), torch.ones(SIZE))
    assert made.deadline == math.inf  # while it trains
    vector(made).fill_(2.0)
    assert sends(made.handle(Trained(0.5, 32), 1.0)) == [("offer", 6, 4)]
    assert made.handle(message("grant", 6, 3), 1.0) == []  # leave for a round that is over
    (sent,) = made.handle(message("grant", 6, 4), 1.0)
    assert sends([sent]) == [("chunk", 6, 4)]
    assert sent.message.header.scalars == {"loss": 0.5, "samples": 32.0}
    assert sent.message.body == torch.full((SIZE,), 2.0).numpy().tobytes()
    assert made.handle(message("ack", 6, 3), 1.0) == []
    assert made.handle(message("ack", 6, 4), 1.0)[1:] == [RoundDone(4)]
    assert sends(made.handle(chunk(6, 6), 1.0)) == [("ack", 6, 6)]  # comes while it records
    assert made.round == 4
    assert made.handle(Recorded(), 2.0) == []
    assert made.wants_flush
    assert torch.equal(vector(made), torch.full((SIZE,), 2.0))  # still under way
    assert made.handle(Flushed(), 2.0) == [Train(6, load=True)]
    assert torch.equal(vector(made), torch.ones(SIZE))
    assert not made.wants_flush
    assert not made.refused


def test_a_client_that_waits_says_where_it_stands_every_few_seconds() -> None:
    made, now = idle(), 0.0
    for _ in range(3):
        assert made.handle(Tick(), now + 4.9) == []
        now += 5.0
        assert made.deadline == now
        assert sends(made.handle(Tick(), now)) == [("grant", 6, 1)]
    made.handle(chunk(6, 1, 0, 3), now + 1)
    assert made.deadline == now + 6  # what has come shows that nothing is lost
    made.handle(chunk(6, 1, 3, 8), now + 2)
    made.handle(Trained(0.5, 32), now + 50)
    assert sends(made.handle(Tick(), now + 55)) == [("offer", 6, 1)]


def test_an_update_that_is_not_wanted_frees_the_client() -> None:
    made = offering()
    actions = made.handle(message("ack", 6, 1), 2.0)
    assert sends(actions) == [("grant", 6, 2)]
    assert actions[-1] == RoundDone(1)
    made.handle(Recorded(), 2.0)
    assert not made.wants_flush
    assert Train(3, load=True) in made.handle(chunk(6, 3), 3.0)


def test_a_newer_model_takes_the_place_of_one_that_nobody_waits_for() -> None:
    made = idle()
    assert made.handle(chunk(6, 1, 0, 3), 0.0) == []  # the rest got lost, and the coordinator continued
    assert made.handle(chunk(6, 3, 0, 4), 0.0) == []
    assert Train(3, load=True) not in made.handle(chunk(6, 1, 3, 8), 0.0)
    assert Train(3, load=True) in made.handle(chunk(6, 3, 4, 8), 0.0)
    made.handle(chunk(6, 5), 0.0)  # while it trains: two models wait for it by mistake
    made.handle(chunk(6, 6), 0.0)
    assert made.round == 3
    made.handle(Trained(), 1.0)
    actions = made.handle(message("ack", 6, 3), 1.0)
    assert sends(actions) == []  # it has a model, and needs no other
    assert Train(6, load=True) in made.handle(Recorded(), 1.0)
    assert not made.refused


@pytest.mark.parametrize("event", [Reconnected(6), message("hello", 6, 1)], ids=["its own", "the coordinator's"])
def test_a_client_says_again_where_it_stands_when_a_connection_broke(event: Reconnected) -> None:
    def said(made: Client) -> list[tuple[str, int, int]]:
        return [what for what in sends(made.handle(event, 5.0)) if what[0] in ("grant", "offer")]

    made = idle()
    assert said(made) == [("grant", 6, 1)]
    made.handle(chunk(6, 1, 0, 3), 0.0)
    assert said(made) == [("grant", 6, 1)]  # part of a model is none
    made.handle(chunk(6, 1, 3, 8), 0.0)
    assert said(made) == []
    made.handle(Trained(), 1.0)
    assert said(made) == [("offer", 6, 1)]
    made.handle(message("ack", 6, 1), 1.0)
    assert said(made) == [("grant", 6, 2)]
    made.handle(Recorded(), 1.0)
    assert said(made) == [("grant", 6, 2)]


def test_its_own_broken_connection_is_told_the_rest_too() -> None:
    made = offering()
    made.handle(message("grant", 6, 1), 1.0)
    again = sends(made.handle(Reconnected(6), 2.0))
    assert again == [("hello", 6, 1), ("ack", 6, 1), ("offer", 6, 1), ("chunk", 6, 1)]


def test_goodbye_ends_it_whatever_it_was_doing() -> None:
    for made in (a_client(), idle(), offering()):
        assert made.handle(message("goodbye", 6, 9), 5.0) == [Finish()]
        assert made.handle(Lost(6), 6.0) == []
    training = idle()
    training.handle(chunk(6, 1), 0.0)
    assert training.handle(message("goodbye", 6, 9), 5.0) == [Finish()]
    recording = offering()
    recording.handle(message("ack", 6, 1), 1.0)
    assert recording.handle(message("goodbye", 6, 9), 5.0) == []
    assert recording.handle(Lost(6), 5.0) == []
    assert recording.handle(Recorded(), 5.0) == [Finish()]


def test_a_client_without_its_coordinator_fails() -> None:
    assert only_fail(idle().handle(Lost(6), 1.0)) == "lost the connection to the coordinator"
    made = a_client()
    assert made.deadline == 60.0
    assert made.handle(Tick(), 59.0) == []
    reason = "no greeting for 60 s from the coordinator (--handshake-timeout)"
    assert only_fail(made.handle(Tick(), 60.0)) == reason


def test_a_client_refuses_what_is_no_model() -> None:
    made = idle()
    for wrong in (chunk(6, 1, codec="bf16"), chunk(6, 1, stop=SIZE + 1), chunk(1, 1), chunk(6, 1, layout="wider")):
        (note,) = made.handle(wrong, 0.0)
        assert isinstance(note, Note)
        assert note.text.endswith("from the coordinator")
    assert made.refused.total() == 4
    assert Train(1, load=True) in made.handle(chunk(6, 1), 1.0)
    assert made.handle(chunk(6, 0), 1.0) != []
    assert made.refused["round"] == 1


def test_bf16_models_and_updates() -> None:
    x = torch.zeros(SIZE)
    made = Client(CLIENT, x, "bf16")
    made.handle(Started(), 0.0)
    made.handle(message("hello", 6, 1), 0.0)
    body = torch.full((SIZE,), 1.5).bfloat16().view(torch.int16).numpy().tobytes()
    made.handle(message("chunk", 6, 1, body, codec="bf16", vector="x"), 0.0)
    assert torch.equal(x, torch.full((SIZE,), 1.5))
    x.fill_(1.0009765625)
    made.handle(Trained(), 1.0)
    (sent,) = made.handle(message("grant", 6, 1), 1.0)
    assert sent.message.body == torch.ones(SIZE).bfloat16().view(torch.int16).numpy().tobytes()
    assert x[0] != 1.0, "the client's own stays as it is"


def test_a_model_of_a_round_after_the_last_is_refused_and_does_not_shut_out_the_next() -> None:
    made = idle()
    (note,) = made.handle(chunk(6, 10**9), 0.0)
    assert isinstance(note, Note)
    assert made.refused == {"round": 1}
    assert made.handle(chunk(6, 1), 0.0)[-1] == Train(1, load=True)
