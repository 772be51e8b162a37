"""One coordinator by itself: messages, deadlines, missing clients, refusals."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.support.one_coordinator import ALL, CONTEXT, SIZE, a_coordinator, all_ones, greeted, missing, model, offer
from tests.support.one_peer import chunk, message, only_fail, sends

from p2pfl.errors import Refusal
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import (
    Finish,
    Lost,
    Note,
    Reconnected,
    Recorded,
    Refused,
    RoundDone,
    Started,
    Tick,
)
from p2pfl.protocol.server_exchange import Federation, select_clients
from p2pfl.protocol.wire import MAX_ROUND


def deliver(made: Coordinator, *clients: int, now: float = 1.0) -> list[tuple[str, int, int]]:
    said = []
    for client in clients:
        said += sends(made.handle(chunk(client, made.round, scalars={"loss": float(client), "samples": 10.0}), now))
    return said


def test_a_round_action_by_action() -> None:
    made = a_coordinator()
    assert sends(made.handle(Started(), 0.0)) == [("hello", client, 1) for client in range(6)]
    assert made.handle(message("grant", 4, 1), 0.0) == []  # ready before the others have greeted
    for client in range(5):
        assert made.handle(message("hello", client, 1), 0.0) == []
    assert sends(made.handle(message("hello", 5, 1), 0.0)) == [("chunk", 4, 1)]
    for client in (0, 1, 2, 3, 5):
        assert sends(made.handle(message("grant", client, 1), 0.0)) == [("chunk", client, 1)]
    assert offer(made, 5, 4) == []  # four are before them
    assert offer(made, 3, 0, 2) == [("grant", 3, 1), ("grant", 0, 1), ("grant", 2, 1)]
    assert deliver(made, 3) == [("ack", 3, 1)]  # kept until its turn
    assert deliver(made, 0) == [("ack", 0, 1), ("grant", 4, 1)]
    assert offer(made, 1) == [("grant", 1, 1)]
    assert deliver(made, 1) == [("ack", 1, 1), ("grant", 5, 1)]
    assert deliver(made, 5, 2) == [("ack", 5, 1), ("ack", 2, 1)]
    assert made.stage == "working"
    last = made.handle(chunk(4, 1), 1.0)
    assert last[-1] == RoundDone(1)
    assert made.facts["selected"] == ["zero", "one", "two", "three", "four", "five"]
    assert missing(made) == []
    assert made.facts["samples"] == 50
    assert made.facts["train_loss"] == pytest.approx((0 + 1 + 2 + 3 + 0 + 5) / 6)
    assert made.deadline == math.inf
    assert made.handle(message("grant", 3, 2), 1.0) == []
    assert sends(made.handle(Recorded(), 2.0)) == [("chunk", 3, 2)]
    assert not made.refused


def test_the_end_is_said_to_all() -> None:
    made = greeted(context=replace(CONTEXT, training_rounds=1))
    offer(made, *range(6))
    deliver(made, *range(6))
    end = made.handle(Recorded(), 2.0)
    assert sends(end) == [("goodbye", client, 1) for client in range(6)]
    assert end[-1] == Finish()
    assert made.handle(Lost(0), 3.0) == []


def test_losses_are_weighed_like_the_updates() -> None:
    made = greeted(replace(ALL, weights=[1.0, 1.0, 1.0, 1.0, 1.0, 5.0], samples_before=100))
    offer(made, *range(6))
    deliver(made, *range(6))
    assert made.facts["train_loss"] == pytest.approx((0 + 1 + 2 + 3 + 4 + 5 * 5) / 10)
    assert made.facts["samples"] == 160


def test_after_the_deadline_the_round_ends_with_the_others_and_names_who_is_missing() -> None:
    made = greeted(replace(ALL, deadline=20.0))
    assert made.deadline == 20.0
    offer(made, 0, 1, 3, 4, 5)
    deliver(made, 0, 1, 3)
    assert made.deadline == 20.0
    assert made.handle(Tick(), 19.9) == []
    actions = made.handle(Tick(), 20.0)
    assert actions[0] == Note("round 1 continues without two")
    assert sends(actions) == []  # 4 and 5 are among the first four and hold credit already
    assert made.deadline == 40.0  # new credit has its own deadline
    assert deliver(made, 4, 5, now=39.0) == [("ack", 4, 1), ("ack", 5, 1)]
    assert made.stage == "recording"
    assert made.facts["missing"] == ["two"]
    assert made.facts["selected"] == ["zero", "one", "two", "three", "four", "five"]


def test_updates_that_were_offered_in_time_are_waited_for_as_long_as_they_move() -> None:
    made = greeted(replace(ALL, deadline=20.0))
    offer(made, *range(6), now=19.0)
    for now in (30.0, 45.0, 60.0):
        assert made.handle(Tick(), now) == []
        made.handle(chunk(0, 1, 0, 2), now)
        assert made.deadline == now + 20.0
    actions = made.handle(Tick(), 80.0)
    assert actions[0] == Note("round 1 continues without zero, one, two, three")
    assert sends(actions) == [("grant", 4, 1), ("grant", 5, 1)]
    assert sends(made.handle(chunk(0, 1, 2, 8), 81.0)) == [("ack", 0, 1)]  # taken and thrown away
    deliver(made, 4, now=81.0)
    failed = made.handle(Tick(), 101.0)
    assert failed[0] == Note("round 1 continues without five")
    assert only_fail(failed[1:]) == (
        "round 1: 1 of 6 updates came, and --min-updates asks for 3; missing: zero, one, two, three, five"
    )
    assert made.handle(Tick(), 1e9) == []


def test_without_a_deadline_the_timeout_grows_with_the_slowest_complete_round() -> None:
    made = greeted()
    assert made.deadline == 600.0
    offer(made, *range(6), now=100.0)
    deliver(made, *range(6), now=200.0)
    made.handle(Recorded(), 210.0)
    assert made.deadline == 210.0 + 10 * 200.0
    made = greeted()
    offer(made, *range(6), now=1.0)
    deliver(made, *range(6), now=2.0)
    made.handle(Recorded(), 3.0)
    assert made.deadline == 33.0


@pytest.mark.parametrize("least", [3, 4])
def test_a_round_needs_its_minimum(least: int) -> None:
    made = greeted(replace(ALL, min_updates=least, deadline=20.0))
    offer(made, 0, 2, 4)
    deliver(made, 0, 2, 4)
    actions = made.handle(Tick(), 20.0)
    assert actions[0] == Note("round 1 continues without one, three, five")
    if least == 3:
        assert actions[1:] == [RoundDone(1)]
    else:
        assert only_fail(actions[1:]) == (
            "round 1: 3 of 6 updates came, and --min-updates asks for 4; missing: one, three, five"
        )


@pytest.mark.parametrize("stage", ["sent", "training", "offering", "granted", "half", "waiting"])
def test_a_lost_client_does_not_hold_up_the_round_whatever_it_was_doing(stage: str) -> None:
    made = greeted(context=replace(CONTEXT, training_rounds=1)) if stage != "waiting" else a_coordinator()
    if stage == "waiting":
        made.handle(Started(), 0.0)
        for client in range(6):
            made.handle(message("hello", client, 1), 0.0)
        for client in (0, 1, 2, 3, 5):
            made.handle(message("grant", client, 1), 0.0)
    offer(made, 0, 1, 2, 3)
    deliver(made, 1, 2, 3)
    if stage in ("granted", "half"):
        deliver(made, 0)
    if stage in ("training", "offering", "granted", "half"):
        made.handle(message("ack", 4, 1), 1.0)
    if stage in ("offering", "granted", "half"):
        made.handle(message("offer", 4, 1), 1.0)
    if stage == "half":
        made.handle(chunk(4, 1, 0, 4), 1.0)
    assert made.progress[4] == ("granted" if stage == "half" else stage)
    assert made.handle(Lost(4), 2.0)[0] == Note("round 1 continues without four")
    if stage not in ("granted", "half"):
        deliver(made, 0)
    offer(made, 5)
    deliver(made, 5)
    assert made.stage == "recording"
    assert made.facts["missing"] == ["four"]
    assert all_ones(model(made))
    assert not made.refused


def test_what_a_lost_client_has_delivered_counts() -> None:
    made = greeted()
    offer(made, *range(6))
    deliver(made, 0, 3)
    assert made.handle(Lost(0), 1.0) == []
    assert made.handle(Lost(3), 1.0) == []  # whole, and waits for its turn
    deliver(made, 1, 2, 4, 5)
    assert missing(made) == []
    made.handle(Recorded(), 2.0)
    assert missing(made) == ["zero", "three"]  # of the next round, from its beginning
    made.handle(message("grant", 0, 2), 2.0)
    assert missing(made) == ["zero", "three"]


def test_a_client_that_was_late_is_freed_and_its_update_goes_nowhere() -> None:
    """Given up in round 1, done in round 3, whatever of its update was under way."""
    made = greeted(replace(ALL, deadline=20.0), replace(CONTEXT, training_rounds=4))
    for round in (1, 2):
        others = (0, 1, 2, 3, 4)
        offer(made, *others)
        deliver(made, *others)
        made.handle(Tick(), made.deadline)
        assert missing(made) == ["five"]
        made.handle(Recorded(), 0.0)
        for client in others:
            made.handle(message("grant", client, round + 1), 0.0)
    assert made.round == 3
    assert sends(made.handle(message("ack", 5, 1), 1.0)) == []
    for _ in range(2):
        assert sends(made.handle(message("offer", 5, 1), 1.0)) == [("ack", 5, 1)]
    body = torch.full((SIZE,), 9.0).numpy().tobytes()
    assert sends(made.handle(message("chunk", 5, 1, body, codec="fp32", vector="x"), 1.0)) == [("ack", 5, 1)]
    assert sends(made.handle(message("grant", 5, 2), 1.0)) == [("chunk", 5, 3)]
    assert sends(made.handle(message("grant", 5, 2), 1.0)) == [("heartbeat", 5, 3)]
    offer(made, *range(6))
    deliver(made, *range(6))
    assert missing(made) == []
    assert all_ones(model(made))
    assert not made.refused


def test_a_broken_connection_is_told_again_what_counts() -> None:
    made = greeted()
    assert sends(made.handle(Reconnected(0), 0.0)) == [("hello", 0, 1), ("chunk", 0, 1)]
    made.handle(message("ack", 0, 1), 0.0)
    assert sends(made.handle(Reconnected(0), 0.0)) == [("hello", 0, 1)]
    made.handle(message("offer", 0, 1), 0.0)
    assert sends(made.handle(Reconnected(0), 0.0)) == [("hello", 0, 1), ("grant", 0, 1)]
    deliver(made, 0)
    assert sends(made.handle(Reconnected(0), 0.0)) == [("hello", 0, 1), ("ack", 0, 1)]


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_said_twice_counts_once(times: int) -> None:
    made = greeted()
    said = []
    for client in range(6):
        for event in (message("grant", client, 1), message("ack", client, 1), message("offer", client, 1)):
            for _ in range(times):
                said += sends(made.handle(event, 1.0))
    news = Counter(answer for answer in said if answer[0] != "heartbeat")  # all that is said again has an answer
    assert news == {("grant", client, 1): times for client in range(4)}  # which may have got lost
    for client in range(6):
        for _ in range(times):
            assert sends(made.handle(chunk(client, 1, 0, 5), 1.0)) == []
        for _ in range(times):
            assert ("ack", client, 1) in sends(made.handle(chunk(client, 1, 5, 8), 1.0))
    assert made.stage == "recording"
    assert all_ones(model(made))


# Greeting


def test_it_begins_without_those_that_do_not_greet() -> None:
    made = a_coordinator()
    made.handle(Started(), 0.0)
    for client in (0, 1, 2, 4):
        made.handle(message("hello", client, 1), 10.0)
    assert made.deadline == 60.0
    assert made.handle(Tick(), 59.0) == []
    assert made.handle(Tick(), 60.0)[0] == Note("begins without three, five")
    assert missing(made) == ["three", "five"]
    made.handle(message("hello", 5, 1), 61.0)  # was only slow
    made.handle(message("grant", 5, 1), 61.0)
    for client in (0, 1, 2, 4):
        made.handle(message("grant", client, 1), 61.0)
    offer(made, 0, 1, 2, 4)
    deliver(made, 0, 1, 2, 4)
    assert sends(made.handle(Recorded(), 62.0)) == [("chunk", 5, 2)]
    assert missing(made) == ["three"]


def test_it_waits_no_longer_for_greetings_of_the_lost() -> None:
    for order in ("lost first", "lost last"):
        made = a_coordinator()
        made.handle(Started(), 0.0)
        events = [message("hello", client, 1) for client in range(5)]
        events = [Lost(5), *events] if order == "lost first" else [*events, Lost(5)]
        for event in events:
            assert made.stage == "greeting"
            actions = made.handle(event, 1.0)
        assert actions == [Note("begins without five")]
        assert made.stage == "working"


def test_too_few_greetings_end_the_run() -> None:
    made = a_coordinator()
    made.handle(Started(), 0.0)
    for client in (0, 1, 4):
        made.handle(message("hello", client, 1), 10.0)
    made.handle(Lost(4), 30.0)  # greeted, but gone
    reason = only_fail(made.handle(Tick(), 60.0))
    assert reason.startswith(
        "no greeting from two, three, four, five (--handshake-timeout), and --min-updates asks for"
    )


# What is refused

WRONG = {
    "other run": (chunk(1, 1, run="another"), "run: another run, or a swarm with other settings, from 1"),
    "stranger": (chunk(7, 1), "sender: no neighbor, from 7"),
    "itself": (message("offer", 6, 1), "sender: no neighbor, from 6"),
    "other layout": (chunk(1, 1, layout="wider"), "layout: another model, from 1"),
    "other codec": (chunk(1, 1, codec="bf16"), "codec: bf16 instead of fp32, from 1"),
    "other vector": (chunk(1, 1, vector="y"), "vector: there is no 'y' here, from 1"),
    "too long": (chunk(1, 1, stop=SIZE + 1), "length: the vector is longer than the model, from 1"),
    "gap": (chunk(1, 1, start=4), "offset: 16 is not the next chunk, from 1"),
    "no leave": (chunk(5, 1), "round: a chunk of round 1 without credit, from 5"),
    "next round": (chunk(1, 2), "round: a chunk of round 2 without credit, from 1"),
    "far future": (chunk(1, MAX_ROUND), "round: a chunk of round 1000000000 without credit, from 1"),
    "no message": (Refused(Refusal.HEADER, "broken"), "header: broken"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_counted_and_changes_nothing(name: str) -> None:
    event, reason = WRONG[name]
    made = greeted()
    offer(made, *range(6))
    loud = reason.startswith(("run:", "layout:"))
    assert made.handle(event, 1.0) == [Note(f"refused a message: {reason}", matters=loud)]
    assert made.handle(event, 1.0) == []
    assert made.refused == {reason.split(":")[0]: 2}
    deliver(made, *range(6))
    assert made.stage == "recording"
    assert all_ones(model(made))


# The selection


def test_the_selection_is_the_same_whenever_it_is_asked_and_differs_by_round_and_seed() -> None:
    federation = Federation([1.0] * 20, 6, seed=3, min_updates=1)
    drawn = [select_clients(federation, round) for round in range(1, 40)]
    assert drawn == [select_clients(federation, round) for round in range(1, 40)]
    assert all(len(set(clients)) == 6 and list(clients) == sorted(clients) for clients in drawn)
    assert len(set(drawn)) > 35
    assert drawn != [select_clients(replace(federation, seed=4), round) for round in range(1, 40)]
    # Whom it draws depends on nothing else.
    other = replace(federation, weights=[float(k + 1) for k in range(20)], min_updates=6, deadline=1.0)
    assert drawn == [select_clients(other, round) for round in range(1, 40)]


def test_all_are_drawn_equally_often() -> None:
    federation = Federation([1.0] * 10, 3, seed=0, min_updates=1)
    rounds = 3000
    counts = Counter(client for round in range(1, rounds + 1) for client in select_clients(federation, round))
    # Standard deviation 25; more than 5 of them would be no accident.
    assert all(abs(counts[client] - 0.3 * rounds) < 125 for client in range(10)), counts


def test_n_of_n_are_all() -> None:
    assert all(select_clients(ALL, round) == (0, 1, 2, 3, 4, 5) for round in range(1, 20))
