"""Local steps and evaluation of one model on one device."""

from p2pfl.training.device import REMEDIES, make_current, pick_device
from p2pfl.training.evaluation import EvalStats, Evaluation, Stopped
from p2pfl.training.schedule import MOMENTUM_SWING, build_schedule, local_steps, with_common_steps
from p2pfl.training.shards import dataset_of_run, own_split_of, split_of_run
from p2pfl.training.statistics import statistics_of_run
from p2pfl.training.step import capture_for
from p2pfl.training.trainer import Trainer, TrainStats
from p2pfl.training.weights import check_weights, initial_model

__all__ = [
    "MOMENTUM_SWING",
    "REMEDIES",
    "EvalStats",
    "Evaluation",
    "Stopped",
    "TrainStats",
    "Trainer",
    "build_schedule",
    "capture_for",
    "check_weights",
    "dataset_of_run",
    "initial_model",
    "local_steps",
    "make_current",
    "own_split_of",
    "pick_device",
    "split_of_run",
    "statistics_of_run",
    "with_common_steps",
]
