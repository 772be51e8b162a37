"""Finished rounds of several processes, and their consensus distance in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from p2pfl.model.sketches import consensus_distance
from p2pfl.run.records import RoundRecord
from p2pfl.run.sketch_file import readable_sketches


def finished_rounds(recorded: Sequence[Sequence[RoundRecord]]) -> dict[int, tuple[RoundRecord, ...]]:
    """Rounds that all of these processes have finished, with their records of it."""
    by_round = [{record.round: record for record in own} for own in recorded]
    last = min((max(own, default=0) for own in by_round), default=0)
    numbers = sorted({number for own in by_round for number in own if number <= last})
    return {number: tuple(own[number] for own in by_round if number in own) for number in numbers}


def consensus_distances(
    folders: Sequence[Path], places: Sequence[Mapping[int, int]], rounds: Mapping[int, Sequence[RoundRecord]]
) -> dict[int, float]:
    """Consensus distances by round; `places`: by peer, round -> row of its sketches."""
    sketches = [readable_sketches(folder)[0] for folder in folders]
    distances = {}
    for number, reported in rounds.items():
        rows = [(where[number], own) for where, own in zip(places, sketches, strict=True) if number in where]
        if len(rows) < len(reported):
            continue  # some sketch was lost
        with np.errstate(all="ignore"):  # diverged weights need no warning here
            distance = consensus_distance([own[row] for row, own in rows])
        if math.isfinite(distance):
            distances[number] = distance
    return distances
