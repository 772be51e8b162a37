"""Plan of checkpoints: which rounds are saved, and which files go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p2pfl.run import checkpoint
from p2pfl.run.checkpoint import Checkpoint, Origin
from p2pfl.run.paths import CHECKPOINTS_FOLDER, checkpoint_name
from p2pfl.run.recovery import consistent_rounds, find_recovery_line
from p2pfl.run.retention import CheckpointPlan


def test_due_are_every_so_many_rounds_the_last_and_those_asked_for() -> None:
    plan = CheckpointPlan(every=3, rounds=8, also=frozenset({4}))
    assert [round for round in range(1, 12) if plan.is_due(round)] == [3, 4, 6, 8]
    client = CheckpointPlan(every=3, rounds=8, has_common_marks=False)
    assert all(client.is_due(round) for round in range(1, 9))
    assert not client.is_due(9)


@pytest.mark.parametrize(
    ("plan", "before", "round", "goes"),
    [
        (CheckpointPlan(), [3, 4], 5, [3]),
        (CheckpointPlan(), [2, 3], 7, [2]),
        (CheckpointPlan(kept=3), [3, 4], 5, []),
        (CheckpointPlan(every=5), [5], 10, []),
        (CheckpointPlan(every=5), [5, 10], 15, [5]),
        (CheckpointPlan(every=5), [11, 12], 15, []),  # saved one by one before: nobody knows who has 15
        (CheckpointPlan(every=5), [11, 12, 15], 20, [11, 12]),
        (CheckpointPlan(every=5, rounds=17), [10, 15], 17, []),
        (CheckpointPlan(every=5, has_common_marks=False), [1, 3, 6, 7], 8, [1, 6, 7]),
        (CheckpointPlan(every=5, has_common_marks=False, resumed=7), [1, 3, 6, 7], 8, [1, 6]),
        (CheckpointPlan(every=5, has_common_marks=False), [3, 4, 9, 11], 12, [3, 11]),
    ],
)
def test_older_ones_go(plan: CheckpointPlan, before: list[int], round: int, goes: list[int]) -> None:
    assert plan.outdated(before, round) == goes


@pytest.mark.parametrize(
    ("saved", "edges", "rounds"),
    [
        ([{5, 10}, {5, 10}], [(0, 1)], [10, 10]),
        ([{5, 10}, {5}, {5, 10}], [(0, 1), (1, 2)], [5, 5, 5]),
        ([{0, 5}, {0}, {0, 5}], [(0, 1), (1, 2)], [0, 0, 0]),
        ([{5, 10}, {0}, {5, 10}], [(0, 1), (1, 2)], [10, 0, 10]),
        ([{5, 10}, {5}, {5, 10}], [(0, 1)], [5, 5, 10]),
        ([{7, 8}, {8, 9}, {9, 10}], [(0, 1), (1, 2)], [8, 9, 10]),
        ([{7, 8}, {8, 9}, {9, 10, 15}], [(0, 1), (1, 2)], [8, 9, 10]),
        ([{5, 6}, {5, 10}], [(0, 1)], [6, 5]),
        ([{5, 10}, {10, 15}, {15, 20}], [(0, 1), (1, 2)], [10, 10, 20]),
    ],
)
def test_the_newest_rounds_from_which_all_can_continue(
    saved: list[set[int]], edges: list[tuple[int, int]], rounds: list[int]
) -> None:
    assert consistent_rounds(saved, edges) == rounds


def test_neighbors_go_back_for_a_peer_whose_newest_is_damaged(tmp_path: Path) -> None:
    """They exchanged when they were stopped, however old its other checkpoints are."""
    folders = [tmp_path / name for name in "ab"]
    for index, (folder, rounds) in enumerate(zip(folders, ([3, 6, 9], [3, 6]), strict=True)):
        folder.mkdir()
        for round in rounds:
            x = torch.zeros(3)
            kept = Checkpoint(round, round, "", "", x, x, origin=Origin("run", folder.name, index), every=3)
            checkpoint.write(folder / CHECKPOINTS_FOLDER, kept)
    newest = folders[1] / CHECKPOINTS_FOLDER / checkpoint_name(6)
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    line = find_recovery_line(tmp_path, folders, ["a", "b"], [{1}, {0}], at_most=20)
    assert line is not None
    assert (line.rounds, line.newest, line.lowered) == ([3, 3], [9, 3], [0])
