"""Progress over several runs."""

from __future__ import annotations

import io

from rich.console import Console
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.ui import OverallProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_samples_left() -> None:
    clock = Clock()
    overall = OverallProgress([100, 100, 200], clock)
    assert overall.seconds_left() is None
    overall.end(100)  # complete already: it says nothing about the speed
    overall.begin(100, 10, resumed=False)
    clock.now = 5.0
    overall.step(0, 3)
    overall.step(1, 2)
    assert (overall.samples, overall.seconds_left()) == (150, 25.0), "50 samples in 5 s, 250 left"
    assert overall.text() == "1 of 3 runs, about 0:25 left"
    clock.now = 10.0
    overall.end(100)
    assert (overall.samples, overall.seconds_left()) == (200, 20.0)
    overall.end(200)
    assert overall.text() == "3 of 3 runs"


def test_samples_of_an_earlier_call_say_nothing_about_the_speed() -> None:
    clock = Clock()
    overall = OverallProgress([100], clock)
    overall.begin(100, 10, resumed=True)
    overall.step(0, 4)
    assert (overall.samples, overall.seconds_left()) == (40, None)
    clock.now = 6.0
    overall.step(0, 7)
    assert (overall.samples, overall.seconds_left()) == (70, 6.0)


def test_a_run_that_diverges_counts_by_what_it_has_done() -> None:
    clock = Clock()
    overall = OverallProgress([100, 100], clock)
    overall.begin(100, 10, resumed=False)
    overall.step(0, 2)
    clock.now = 4.0
    overall.end(100, is_complete=False)
    assert (overall.samples, overall.seconds_left()) == (100, 20.0), "20 samples in 4 s, 100 left"


def test_a_run_is_never_longer_than_planned() -> None:
    overall = OverallProgress([100, 100])
    overall.begin(100, 10, resumed=False)
    overall.step(0, 30)
    assert overall.samples == 100


def test_the_bar_is_one_line() -> None:
    overall = OverallProgress([100, 100])
    overall.begin(100, 10, resumed=False)
    overall.round(0, train_record(make_topology("ring", 4), 0, 1, 4, 100), None)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(overall.render())
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 1
    assert "0 of 2 runs" in console.file.getvalue()
