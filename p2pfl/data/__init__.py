"""Data sets: sources, cache files, partitions, batches."""

from __future__ import annotations

from p2pfl.data.cache import load
from p2pfl.data.dataset import IMAGE_SIDE, Dataset, Progress
from p2pfl.data.holdout import check_held_out, held_out_number, hold_out, holdout_notes, remaining, without_test
from p2pfl.data.loader import EVALUATION_BATCH, Batches, evaluation_batches, evaluation_samples
from p2pfl.data.partition import Request, Split, own_split, partition, pooled
from p2pfl.data.sources import DatasetInfo, all_notes, describe, prepare

__all__ = [
    "EVALUATION_BATCH",
    "IMAGE_SIDE",
    "Batches",
    "Dataset",
    "DatasetInfo",
    "Progress",
    "Request",
    "Split",
    "all_notes",
    "check_held_out",
    "describe",
    "evaluation_batches",
    "evaluation_samples",
    "held_out_number",
    "hold_out",
    "holdout_notes",
    "load",
    "own_split",
    "partition",
    "pooled",
    "prepare",
    "remaining",
    "without_test",
]
