"""Numbers of exchanges and of the run's rounds."""

from __future__ import annotations

import pytest

from p2pfl.protocol.numbering import Numbering

CASES = [(trainings, steps) for trainings in (1, 4) for steps in (1, 3)]


@pytest.mark.parametrize(("trainings", "steps"), CASES)
def test_training_rounds_have_several_exchanges_and_consensus_rounds_one(trainings: int, steps: int) -> None:
    numbers = Numbering(trainings, steps)
    expected = [round for round in range(1, trainings + 1) for _ in range(steps)] + [trainings + 1, trainings + 2]
    exchanges = range(1, len(expected) + 1)
    assert [numbers.round_of(exchange) for exchange in exchanges] == expected
    for round in set(expected):
        own = [exchange for exchange in exchanges if numbers.round_of(exchange) == round]
        assert (numbers.first(round), numbers.last(round)) == (own[0], own[-1])
        assert [exchange for exchange in own if numbers.is_last(exchange)] == own[-1:]
        assert [exchange for exchange in own if numbers.trains(exchange)] == own[: round <= trainings]
    assert numbers.last(0) == 0
