"""Log of a process's rounds: few lines where rounds are short."""

from __future__ import annotations

import msgspec
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.node.accounting import LOG_SECONDS, RoundLog


def test_short_rounds_have_a_line_now_and_then_and_every_evaluation_has_one() -> None:
    log, record = RoundLog(trainings=8), train_record(make_topology("ring", 3), 0, 1, 1, 8)
    plain = msgspec.structs.replace(record, test_accuracy=None)
    scored = msgspec.structs.replace(record, test_accuracy=0.5)
    step = LOG_SECONDS / 4
    lines = [log.line(scored if number == 2 else plain, now=number * step) for number in range(8)]
    assert [line is not None for line in lines] == [True, False, True, False, False, False, True, False]
    assert lines[2] is not None
    assert lines[2].endswith("accuracy 0.5000")
