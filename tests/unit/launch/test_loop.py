"""Launch over a launcher in memory: the loop needs only the contract."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.helpers import small_config
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.errors import LostLauncherError, P2PFLError
from p2pfl.faults import FaultScript, Kill, Pause
from p2pfl.launch import supervisor as policy
from p2pfl.launch.base import LaunchSpec, OnReport, Outcome, WorkerHandle
from p2pfl.launch.events import StartWorker
from p2pfl.launch.loop import supervise
from p2pfl.launch.observers import Observer
from p2pfl.modes import assign_roles
from p2pfl.node import messages

RING = make_topology("ring", 3)
KILL = Kill(peer="1", round=1, restart=3)


class Worker:
    """A worker that ends when the test says so, or when it is told to."""

    def __init__(self) -> None:
        self.orders: list[messages.ToWorker] = []
        self.signals: list[signal.Signals] = []
        self.exitcode: int | None = None
        self.is_closed = False
        self.faults: Sequence[int] = ()

    def send(self, order: messages.ToWorker) -> None:
        self.orders.append(order)
        if isinstance(order, messages.Stop):
            self.exitcode = 130

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.exitcode = -9

    def join(self, _seconds: float) -> bool:
        return self.has_ended()

    def has_ended(self) -> bool:
        return self.exitcode is not None

    def new_faults(self) -> Sequence[int]:
        return self.faults

    def exit_text(self) -> str:
        return f"exit status {self.exitcode}"

    def close(self) -> None:
        self.is_closed = True


Step = Callable[["Memory", OnReport], object]


class Memory:
    """Launcher in memory whose workers take one scripted step at each watch."""

    def __init__(self, *steps: Step, room: int = 99, ready: bool = True) -> None:
        self._steps = [*([be_ready] if ready else []), *steps]
        self._room = room  # for so many starts
        self.orders: list[StartWorker] = []
        self.workers: list[Worker] = []  # the current one of each number
        self.all: list[Worker] = []

    def prepare(self, observer: Observer) -> None:
        observer.info("prepared")

    def address(self, worker: int) -> str:
        return f"memory://{worker}"

    def start(self, order: StartWorker) -> WorkerHandle:
        if len(self.orders) == self._room:
            raise P2PFLError("no room")
        self.orders.append(order)
        self.all.append(Worker())
        if order.again:
            self.workers[order.worker] = self.all[-1]
        else:
            self.workers.append(self.all[-1])
        return self.all[-1]

    def watch(self, seconds: float, report: OnReport) -> None:
        if self._steps:
            self._steps.pop(0)(self, report)

    def close(self) -> None:
        """Nothing is held."""


def be_ready(launcher: Memory, report: OnReport) -> None:
    for worker in range(3):
        report(worker, messages.Ready(launcher.address(worker), "cpu", round=1, steps=6, vector_bytes=4))


def finish(launcher: Memory, report: OnReport) -> None:
    for number, worker in enumerate(launcher.workers):
        report(number, messages.Done({}))
        worker.exitcode = 0


def die(number: int, code: int = -9, faults: Sequence[int] = ()) -> Step:
    def step(launcher: Memory, _report: OnReport) -> None:
        launcher.workers[number].exitcode, launcher.workers[number].faults = code, faults

    return step


class Listener:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words: self.told.append((name, *words))

    def lines(self, kind: str) -> list[str]:
        return [str(words[1]) for words in self.told if words[0] == kind]


def launch(launcher: Memory, *observers: Any, faults: Sequence[Any] = (), **options: object) -> Outcome:
    config = small_config(**options)
    script = FaultScript(tuple(faults), names=RING.names)
    spec = LaunchSpec(assign_roles(config, RING), config, Path("/run"), "run", "settings", script=script)
    outcome = supervise(spec, launcher, observers)
    assert all(worker.is_closed for worker in launcher.all)
    return outcome


def test_a_run_is_changed_once_all_is_checked_and_before_any_worker_starts() -> None:
    config, launcher, begun = small_config(), Memory(finish), []
    spec = LaunchSpec(assign_roles(config, RING), config, Path("/run"), "run", "settings")
    supervise(replace(spec, on_prepared=lambda: begun.append(len(launcher.orders))), launcher, [])
    assert begun == [0]

    class Refusing(Memory):
        def prepare(self, observer: Observer) -> None:
            raise P2PFLError("damaged")

    with pytest.raises(P2PFLError, match="damaged"):
        supervise(replace(spec, on_prepared=lambda: begun.append(-1)), Refusing(), [])
    assert begun == [0]


def test_a_run_is_told_to_all_observers_in_their_order() -> None:
    record = train_record(RING, 1, 1, 1, 8)

    def work(_launcher: Memory, report: OnReport) -> None:
        report(0, messages.Stepped(4))
        report(1, messages.Warned("a warning"))
        report(1, messages.RoundFinished(record, b""))

    first, second = Listener(), Listener()
    launcher = Memory(work, finish)
    outcome = launch(launcher, first, second)
    assert (outcome.status, outcome.lost) == ("complete", [])
    assert launcher.orders == [StartWorker(worker) for worker in range(3)]
    assert launcher.workers[0].orders == [messages.Endpoints({1: "memory://1", 2: "memory://2"})]
    kinds = [words[0] for words in first.told]
    assert kinds == ["info"] * 3 + ["progress"] * 3 + ["expect", "info", "step", "warn", "round"]
    assert ("warn", "peer 1: a warning") in first.told
    assert [words[:3] for words in second.told if words[0] != "round"] == [
        words[:3] for words in first.told if words[0] != "round"
    ]
    assert second.told[-1][:3] == ("round", 1, record)


def test_a_worker_is_started_again_where_others_look_for_it() -> None:
    listener = Listener()
    launcher = Memory(die(1), finish)
    outcome = launch(launcher, listener, restart=1)
    assert (outcome.status, outcome.restarts) == ("complete", {"1": 1})
    assert launcher.orders[-1] == StartWorker(1, True, "memory://1", {0: "memory://0", 2: "memory://2"})
    assert listener.lines("warn") == ["peer 1 died (exit status -9); see /run/peers/1/log.txt; started again"]


def test_no_room_for_a_restart_ends_the_run_and_stops_the_others() -> None:
    launcher = Memory(die(1), room=3)
    outcome = launch(launcher, Listener(), restart=1)
    assert outcome.reason.endswith("and cannot be started again: no room")
    assert [isinstance(worker.orders[-1], messages.Stop) for worker in launcher.workers] == [True, False, True]


def test_no_room_for_a_first_start_is_raised_and_leaves_no_worker() -> None:
    launcher = Memory(room=2)
    with pytest.raises(P2PFLError, match=r"^no room$"):
        launch(launcher, Listener())
    assert [worker.orders for worker in launcher.all] == [[messages.Stop()]] * 2


def test_the_last_fault_that_a_worker_carried_out_says_whether_its_end_was_scripted() -> None:
    pause = Pause(peer="1", round=1, resume=4)
    launcher = Memory(die(1, faults=[1, 0]), finish)
    outcome = launch(launcher, Listener(), faults=[KILL, pause])
    assert (outcome.status, outcome.restarts) == ("complete", {})
    assert launcher.orders[-1].returns_in == 3
    outcome = launch(Memory(die(1, faults=[0, 1])), Listener(), faults=[KILL, pause])
    assert outcome.reason.startswith("peer 1 died"), "it was only paused"


def test_a_paused_worker_is_woken_by_its_neighbors_round() -> None:
    def work(_launcher: Memory, report: OnReport) -> None:
        report(0, messages.RoundFinished(train_record(RING, 0, 3, 3, 8), b""))

    launcher = Memory(work, finish)
    launch(launcher, Listener(), faults=[Pause(peer="1", round=1, resume=4)])
    assert [worker.signals for worker in launcher.workers] == [[], [signal.SIGCONT], []]


def test_an_interrupt_stops_the_workers() -> None:
    def interrupt(_launcher: Memory, _report: OnReport) -> None:
        raise KeyboardInterrupt

    listener = Listener()
    launcher = Memory(interrupt)
    outcome = launch(launcher, listener)
    assert (outcome.status, outcome.reason, outcome.lost) == ("interrupted", "interrupted", [])
    assert listener.lines("info")[-1] == "stopping; everything so far is saved"
    assert all(worker.orders[-1] == messages.Stop() for worker in launcher.workers)


def test_the_last_resort_is_put_off_while_files_of_ended_workers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[str] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, act: Callable[[], None]) -> None:
            assert seconds == policy.STOP_SECONDS + policy.KILL_SECONDS

        def start(self) -> None:
            timers.append("start")

        def cancel(self) -> None:
            timers.append("cancel")

        def join(self) -> None:
            """Nothing runs."""

    def collect(launcher: Memory, report: OnReport) -> None:
        report(1, messages.FilesCollected(are_last=True))

    def interrupt(_launcher: Memory, _report: OnReport) -> None:
        raise KeyboardInterrupt

    class Slow(Memory):
        def start(self, order: StartWorker) -> WorkerHandle:
            worker = super().start(order)
            if order.worker == 1:
                monkeypatch.setattr(worker, "send", lambda _order: None)
            return worker

    def end(launcher: Memory, _report: OnReport) -> None:
        launcher.workers[1].exitcode = 130

    monkeypatch.setattr(threading, "Timer", Timer)
    assert launch(Slow(interrupt, collect, collect, end), Listener()).status == "interrupted"
    assert timers == ["start", "cancel", "start", "cancel", "start", "cancel"]


def test_a_launcher_that_is_lost_ends_the_run_and_stops_whom_it_reaches() -> None:
    def lose(_launcher: Memory, _report: OnReport) -> None:
        raise LostLauncherError("the head of the cluster has not answered")

    launcher = Memory(lose)
    outcome = launch(launcher, Listener())
    assert (outcome.status, outcome.reason) == ("failed", "the head of the cluster has not answered")
    assert outcome.resumable
    assert all(messages.Stop() in worker.orders for worker in launcher.workers)
