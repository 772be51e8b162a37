"""Outbox of a worker on a Ray cluster: no lost reports, and files come last."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ray_files import RING, filled, launched
from tests.support.runs import train_record

from p2pfl.launch.ray_files import PrivateFolder
from p2pfl.launch.ray_outbox import Answer, Outbox, Place
from p2pfl.node import messages
from p2pfl.node.control import EXIT_OK
from p2pfl.run.mirror import PIECE_BYTES
from p2pfl.run.paths import MODEL_FILE

PLACE = Place("node", "10.0.0.2", 7)
DONE = messages.Done({})


def reports_of(answer: Answer) -> list[messages.FromWorker]:
    return [messages.decode_from_worker(report) for report in answer.reports]


@pytest.fixture
def folder() -> Iterator[PrivateFolder]:
    made = PrivateFolder()
    yield made
    made.close()


def test_an_answer_that_got_lost_is_given_again() -> None:
    outbox = Outbox(PLACE, None)
    outbox.reports(messages.Stepped(1))
    lost = outbox.take(0, 0.0)
    outbox.reports(messages.Stepped(2))
    assert outbox.take(0, 0.0) == lost
    assert reports_of(lost) == [messages.Stepped(1)]
    assert reports_of(outbox.take(1, 0.0)) == [messages.Stepped(2)]


def test_two_calls_for_the_same_answer_get_the_same() -> None:
    outbox, found = Outbox(PLACE, None), list[Answer]()
    calls = [threading.Thread(target=lambda: found.append(outbox.take(0, 30.0))) for _ in range(2)]
    for call in calls:
        call.start()
    outbox.reports(messages.Stepped(1))
    for call in calls:
        call.join(30)
    assert [reports_of(answer) for answer in found] == [[messages.Stepped(1)]] * 2


def test_the_status_comes_with_the_last_report_where_the_folder_is_shared() -> None:
    outbox = Outbox(PLACE, None)
    outbox.reports(DONE)
    outbox.status = EXIT_OK
    outbox.reports.end()
    answer = outbox.take(0, 0.0)
    assert (reports_of(answer), answer.status, answer.wants_files) == ([DONE], EXIT_OK, None)


def test_a_private_folder_is_emptied_before_the_status_comes(tmp_path: Path, folder: PrivateFolder) -> None:
    outbox = Outbox(PLACE, folder)
    assert outbox.take(0, 0.0).wants_files == 0
    there = filled(folder, launched(tmp_path)).run_dir
    (there / MODEL_FILE).write_bytes(b"m" * (2 * PIECE_BYTES))
    outbox.reports(DONE)
    outbox.status = EXIT_OK
    outbox.reports.end()
    answers = [outbox.take(1, 0.0)]
    while answers[-1].status is None:
        answers.append(outbox.take(len(answers) + 1, 0.0))
    assert sum(len(piece.content) for answer in answers for piece in answer.pieces) == 2 * PIECE_BYTES
    assert [report for answer in answers for report in reports_of(answer)] == [DONE]
    assert [answer.is_over for answer in answers] == sorted(answer.is_over for answer in answers)
    assert answers[-1].status == EXIT_OK
    assert not there.exists()


def test_no_answer_is_so_large_that_ray_would_store_it(tmp_path: Path, folder: PrivateFolder) -> None:
    outbox = Outbox(PLACE, folder)
    there = filled(folder, launched(tmp_path)).run_dir
    outbox.take(0, 0.0)
    (there / MODEL_FILE).write_bytes(b"m" * (2 * PIECE_BYTES))
    for number in range(40):
        outbox.reports(messages.RoundFinished(train_record(RING, 1, number + 1, 40, 8), b"s" * 16_384))
    outbox.reports.end()
    answers = [outbox.take(1, 0.0)]
    while answers[-1].status is None:
        answers.append(outbox.take(len(answers) + 1, 0.0))
    sizes = [len(pickle.dumps(answer)) for answer in answers]
    assert max(sizes) < 100 << 10
    assert max(sizes) > PIECE_BYTES
