"""Control of a worker: endpoints before and after its start, reports that wait."""

from __future__ import annotations

import queue

import pytest
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.node import messages
from p2pfl.node.control import Control, ReportQueue


def test_the_first_endpoints_are_waited_for_and_later_ones_are_moves() -> None:
    control, moved = Control(), []
    control.obey(messages.Endpoints({1: "first"}))
    control.obey(messages.Endpoints({1: "second"}))
    assert control.wait_for_endpoints(1.0) == {1: "first"}
    control.attach(lambda: None, moved.append)
    control.obey(messages.Endpoints({2: "third"}))
    assert moved == [{1: "second"}, {2: "third"}]


def test_reports_that_wait_keep_their_order_and_the_end_comes_last() -> None:
    reports = ReportQueue()
    reports(messages.Stepped(1))
    reports(messages.Warned("a warning"))
    reports.end()
    assert [reports.take(0.0) for _ in range(3)] == [messages.Stepped(1), messages.Warned("a warning"), None]
    with pytest.raises(queue.Empty):
        reports.take(0.0)


def test_a_launcher_that_reads_nothing_makes_no_queue_without_end() -> None:
    reports, record = ReportQueue(), train_record(make_topology("ring", 3), 0, 1, 1, 8)
    for number in range(1000):
        reports(messages.Stepped(number))
        reports(messages.RoundFinished(record, b""))
    reports(messages.Done({}))
    reports.end()
    waiting = list(iter(lambda: reports.take(0.0), None))
    assert len(waiting) < 300
    assert waiting[-1] == messages.Done({}), "what matters is never left out"
