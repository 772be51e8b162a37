"""Control of a worker: endpoints before and after its start, reports that wait."""

from __future__ import annotations

import queue
from multiprocessing import Pipe

import pytest
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.node import messages
from p2pfl.node.control import Control, LinkReport, ReportQueue


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


def test_rounds_that_follow_each_other_are_reported_together() -> None:
    here, there = Pipe()
    report, record = LinkReport(there, seconds=3600.0), train_record(make_topology("ring", 3), 0, 1, 1, 8)
    finished = messages.RoundFinished(record, b"")
    report(finished)
    assert list(messages.receive_reports(here)) == [finished], "the first waits for nothing"
    told = [messages.Stepped(1), finished, messages.Stepped(2), finished, messages.Stepped(3), messages.Stepped(4)]
    for message in told:
        report(message)
    assert not here.poll(), "they wait for each other"
    report(messages.Warned("a warning"))
    received = list(messages.receive_reports(here))
    assert received == [finished, finished, messages.Stepped(4), messages.Warned("a warning")], (
        "steps done are said once"
    )
    report(finished)
    report.close()
    assert list(messages.receive_reports(here)) == [finished], "nothing is left behind"


def test_many_rounds_are_reported_before_their_time_and_none_is_lost() -> None:
    here, there = Pipe()
    report, record = LinkReport(there, seconds=3600.0), train_record(make_topology("ring", 3), 0, 1, 1, 8)
    finished, count = messages.RoundFinished(record, b""), 0
    for _ in range(1, 101):
        report(finished)
    while count < 64:
        count += len(messages.receive_reports(here))
    report.close()
    while count < 100:
        count += len(messages.receive_reports(here))
    assert count == 100
