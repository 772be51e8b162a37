"""The driver with a scripted protocol: which thread touches what."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.one_peer import CONTEXT

from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError
from p2pfl.node import messages
from p2pfl.node.loop import Driver
from p2pfl.node.ports import Ports
from p2pfl.node.system import SystemClock, ThreadCompute
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.training import EvalStats, Evaluation, TrainStats
from p2pfl.transport import MemoryHub, MemoryTransport

FIRST_DONE = ev.RoundDone(1)
REPORTER = SimpleNamespace(send=lambda message: None, info=lambda text: None, warn=lambda text, matters=True: None)


class OneRound:
    """A protocol of one round that notes the threads that touch it."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.refused: Counter[str] = Counter()
        self._touch = lambda: self.threads.add(threading.get_ident())
        self._steps: Mapping[type, list[ev.Action]] = {
            ev.Started: [ev.Train(1)],
            ev.Trained: [ev.RoundDone(1)],
            ev.Recorded: [ev.Finish()],
        }

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "threads":
            object.__getattribute__(self, "_touch")()
        return object.__getattribute__(self, name)

    context = CONTEXT
    round = 1
    deadline = float("inf")
    wants_flush = False
    payloads: Mapping[int, Payload] = {3: Payload({})}
    algorithm_state: Mapping[str, Any] = {"spread": 2.0}
    facts: Mapping[str, Any] = {}

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        return self._steps.get(type(event), [])


class Trainer:
    """As much of a trainer as a driver uses; nothing is trained."""

    host = torch.zeros(4)
    steps = samples = steps_per_round = 1

    def train(self, *_: object) -> TrainStats:
        return TrainStats(loss=0.5, lr=0.1, samples=1, steps=1, seconds=0.0)

    def to_host(self) -> None: ...

    def to_device(self) -> None: ...


class Store:
    """A store that keeps in memory what it is given."""

    config = RunConfig()
    sketches = False
    keeps = True
    elapsed_before = 0.0

    def __init__(self) -> None:
        self.saved: list[tuple[int, Mapping[int, Payload], Mapping[str, Any], int]] = []
        self.begin = lambda round, trainer: []
        self.keep_sent: Callable[[int, Mapping[int, Payload]], None] = lambda exchange, sent: None
        self.record = self.save_model = lambda round, trainer: None
        self.evaluation = lambda round: None
        self.wait_for_disk: Callable[[], None] | None = None

    def saves(self, round: int) -> bool:
        return self.keeps

    def save(
        self, round: int, trainer: Trainer, sent: Mapping[int, Payload], state: Mapping[str, Any]
    ) -> Callable[[], None] | None:
        self.saved.append((round, sent, state, threading.get_ident()))
        return self.wait_for_disk


def run_driver(protocol: OneRound, store: Store, told: list[messages.FromWorker], trainer: Trainer) -> None:
    """Run a driver to its end; `told` gets its reports."""
    transport = MemoryTransport(MemoryHub(), "a")
    reporter = SimpleNamespace(send=told.append, info=lambda text: None, warn=lambda text, matters=True: None)
    ports = Ports(SystemClock(), ThreadCompute(transport.wake), transport, store, reporter)  # type: ignore[arg-type]
    Driver(protocol, trainer, ports).run()  # type: ignore[arg-type]


def test_only_the_calling_thread_touches_the_protocol() -> None:
    protocol, store, told = OneRound(), Store(), list[messages.FromWorker]()
    run_driver(protocol, store, told, Trainer())
    assert protocol.threads == {threading.get_ident()}
    ((round, sent, state, saver),) = store.saved
    assert (round, sent, state) == (1, OneRound.payloads, OneRound.algorithm_state)
    assert saver != threading.get_ident(), "the other thread has worked"


def test_an_evaluation_reports_each_batch_to_the_launcher() -> None:
    """A process that reports nothing for the round timeout may be taken for frozen."""
    told, store = list[messages.FromWorker](), Store()
    store.evaluation = lambda round: Evaluation(0)

    class Evaluating(Trainer):
        def evaluate(self, samples: int, stopped: Callable[[], bool], on: str) -> EvalStats:
            assert [stopped() for _ in range(3)] == [False] * 3
            return EvalStats(accuracy=0.5, loss=0.5, samples=3, seconds=0.0)

    run_driver(OneRound(), store, told, Evaluating())
    assert told.count(messages.Evaluating()) == 3
    assert isinstance(told[-1], messages.RoundFinished)


def test_what_is_not_saved_takes_no_other_thread() -> None:
    """Without checkpoints an exchange amid a round, and a round's saving, are nothing."""

    class TwoExchanges(OneRound):
        context = replace(CONTEXT, training_rounds=2, gossip_steps=2)

        def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
            if isinstance(event, ev.Recorded) and self.round == 1:
                self.round = 2
                return [ev.RoundDone(2)]
            return super().handle(event, now) if self.round == 2 or not isinstance(event, ev.Trained) else [FIRST_DONE]

    tasks: list[str] = []

    class Noting(ThreadCompute):
        def submit(self, work: Callable[[], Any]) -> None:
            tasks.append("task")
            super().submit(work)

    for saves, number in ((False, 2), (True, 4)):
        tasks.clear()
        store = Store()
        store.keeps = saves
        transport = MemoryTransport(MemoryHub(), "a")
        ports = Ports(SystemClock(), Noting(transport.wake), transport, store, REPORTER)  # type: ignore[arg-type]
        Driver(TwoExchanges(), Trainer(), ports).run()  # type: ignore[arg-type]
        assert len(tasks) == number, "training and the round's end, and what is saved"
        assert len(store.saved) == saves


def ports_of(store: Store) -> Ports:
    transport = MemoryTransport(MemoryHub(), "a")
    return Ports(SystemClock(), ThreadCompute(transport.wake), transport, store, REPORTER)  # type: ignore[arg-type]


def test_training_overlaps_with_the_wait_for_the_disk_and_its_result_does_not() -> None:
    happened: list[str] = []
    training = threading.Event()

    class TwoRounds(OneRound):
        context = replace(CONTEXT, training_rounds=2)

        def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
            if isinstance(event, ev.Trained):
                happened.append(f"trained in round {self.round}")
                return [ev.RoundDone(self.round)]
            if isinstance(event, ev.Recorded) and self.round == 1:
                self.round = 2
                return [ev.Train(2)]
            return super().handle(event, now)

    class Telling(Trainer):
        def train(self, round: int, *_: object) -> TrainStats:
            if round == 2:
                training.set()
            return super().train()

    def wait_for_disk() -> None:
        if len(store.saved) == 1:
            assert training.wait(20), "training waits for the disk"
            happened.append("on disk")

    store = Store()
    store.wait_for_disk = wait_for_disk
    Driver(TwoRounds(), Telling(), ports_of(store)).run()  # type: ignore[arg-type]
    assert happened == ["trained in round 1", "on disk", "trained in round 2"]


def test_a_disk_that_fails_after_the_last_turn_is_reported() -> None:
    """A client that had no part in the last rounds has nothing else that waits for it."""
    over = threading.Event()

    class Telling(Driver):
        def turn(self) -> None:
            super().turn()
            if self.has_ended:
                over.set()

    def wait_for_disk() -> None:
        over.wait(20)
        raise CheckpointError("no space")

    store = Store()
    store.wait_for_disk = wait_for_disk
    with pytest.raises(CheckpointError, match="no space"):
        Telling(OneRound(), Trainer(), ports_of(store)).run()  # type: ignore[arg-type]
