"""Data sets: sources, cache files, partitions, batches."""

from __future__ import annotations

from p2pfl.data.cache import load
from p2pfl.data.dataset import IMAGE_SIDE, Dataset, Progress
from p2pfl.data.loader import EVALUATION_BATCH, Batches, evaluation_batches
from p2pfl.data.partition import Request, Split, partition, pooled
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
    "describe",
    "evaluation_batches",
    "load",
    "partition",
    "pooled",
    "prepare",
]
