"""Signals during a launch: end at once, but never in a critical section."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from p2pfl.util.signals import SAME_INTERRUPT_SECONDS, interruptible, shielded

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in ALL]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert [signal.getsignal(number) for number in ALL] == [signal.default_int_handler, *before[1:]]
    signal.signal(signal.SIGINT, before[0])


def _interrupted(number: signal.Signals, shield: bool, done: list[str]) -> None:
    with interruptible() as interrupts:
        if shield:
            with interrupts.shielded():
                signal.raise_signal(number)
                done.append("whole")
        else:
            signal.raise_signal(number)
        done.append("continued")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_interrupts_at_once(number: signal.Signals) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _interrupted(number, False, done)
    assert done == []


@pytest.mark.parametrize("number", ALL)
def test_a_shield_ends_before_the_interrupt(number: signal.Signals) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _interrupted(number, True, done)
    assert done == ["whole"]


@pytest.mark.parametrize(("later", "done"), [(0.1, ["begun", "whole"]), (SAME_INTERRUPT_SECONDS + 0.1, ["begun"])])
@pytest.mark.parametrize("second", ALL)
def test_a_second_interrupt_does_not_wait_unless_it_belongs_to_the_first(
    monkeypatch: pytest.MonkeyPatch, second: signal.Signals, later: float, done: list[str]
) -> None:
    now, did = 100.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)

    def twice() -> None:
        nonlocal now
        with interrupts.shielded():
            signal.raise_signal(signal.SIGTERM)
            did.append("begun")
            now += later
            signal.raise_signal(second)
            did.append("whole")
        did.append("continued")

    with interruptible() as interrupts, pytest.raises(KeyboardInterrupt):
        twice()
    assert did == done


def test_what_follows_an_interrupt_at_once_does_not_disturb_its_handling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)  # a pause of the machine would make it another interrupt
    handled = []
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        for number in ALL:
            signal.raise_signal(number)
        handled.append("whole")
    assert handled == ["whole"]


def test_an_interrupt_falls_between_no_two_that_handle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = 100.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    with interruptible() as outer:
        with interruptible() as inner:
            assert inner is outer
            inner.hold(lambda: heard.append("held"))
            signal.raise_signal(signal.SIGTERM)
        assert heard == ["held"]
        signal.raise_signal(signal.SIGHUP)  # belongs to it
        now += SAME_INTERRUPT_SECONDS + 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGQUIT)
        assert outer.came


def test_the_outer_of_two_shields_defers_to_its_end() -> None:
    done = []

    def shield_twice() -> None:
        with shielded():
            with shielded():
                signal.raise_signal(signal.SIGTERM)
            done.append("whole")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        shield_twice()
    assert done == ["whole"]


def test_another_thread_has_no_signals_to_handle() -> None:
    with interruptible() as main, ThreadPoolExecutor(1) as pool:

        def enter() -> bool:
            with interruptible() as other, shielded():
                return other is not main

        assert pool.submit(enter).result()


def test_the_next_shield_is_free_of_an_interrupt_that_was_heard() -> None:
    with interruptible() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.shielded():
            signal.raise_signal(signal.SIGINT)
        with interrupts.shielded():
            pass


def test_a_failure_within_a_shield_is_what_is_raised() -> None:
    def fail() -> None:
        with interrupts.shielded():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with interruptible() as interrupts, pytest.raises(ZeroDivisionError):
        fail()


def test_a_held_signal_hurries_unless_it_belongs_to_the_interrupt_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = 100.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    with interruptible() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.hold(lambda: heard.append(now))
        signal.raise_signal(signal.SIGINT)
        now += SAME_INTERRUPT_SECONDS + 0.1
        for number in ALL:
            signal.raise_signal(number)
        assert heard == [now], "these are one"
        now += SAME_INTERRUPT_SECONDS + 0.1
        signal.raise_signal(signal.SIGHUP)
        assert heard == [now - SAME_INTERRUPT_SECONDS - 0.1, now]


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
