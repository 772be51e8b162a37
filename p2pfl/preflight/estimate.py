"""Estimate of a run's memory, messages and steps, before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from p2pfl import data
from p2pfl.algorithms import build_algorithm
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.model.vector import Layout
from p2pfl.modes import Roles, assign_roles, mode_of
from p2pfl.payload import ITEM_BYTES
from p2pfl.preflight.checkpoints import checkpoints_on_disk
from p2pfl.preflight.exchanges import exchange_memory, shared_memory, shares_kept, vectors_sent
from p2pfl.preflight.gpus import GpuUse, check_gpus, count_activations, requested_devices
from p2pfl.preflight.notes import settings_notes
from p2pfl.preflight.saved_state import SavedSize, saved_sizes
from p2pfl.preflight.shards import (
    CheckedSplit,
    is_own_alone,
    needs_split,
    pictures_of,
    shard_sizes,
    split_notes,
    steps_of_shard,
    training_samples,
)
from p2pfl.preflight.trial import TriedModel, check_model
from p2pfl.run.data_record import DIGITS, DataRecord
from p2pfl.run.partition_file import notes_as_given
from p2pfl.training import dataset_of_run, own_split_of, pick_device, split_of_run, with_common_steps
from p2pfl.training.optimizer import state_vectors

_MIRRORED = "training images are shifted and mirrored at random; --augment off where left and right matter"


@dataclass(frozen=True)
class Estimate:
    """Bytes, samples and steps of a run.

    Memory is per peer, without the libraries and the shared data set.
    """

    train_samples: int  # with those that are held back for validation
    validation_samples: int
    test_samples: int  # 0 where the test set is not used
    class_names: tuple[str, ...]
    smallest_shard: int
    largest_shard: int
    class_counts: tuple[tuple[int, ...], ...]  # by shard and class; empty for iid, or before the data are decoded
    parameters: int
    vector_bytes: int
    steps_per_round: int
    most_steps_per_round: int  # of the largest shard, where a round is an epoch
    rounds: int
    weights_memory: int
    activations_memory: int
    exchange_memory: int
    shared_memory: int  # segments that neighbors on the same machine read
    bytes_per_round: int
    busiest_bytes_per_round: int
    training_bytes: int  # sent by all in all training rounds; the first payload on an edge may be longer than others
    consensus_rounds: int
    consensus_bytes: int
    checkpoints_kept: int  # of a process; 0 where none are saved
    disk: int  # bytes at least of checkpoints and model
    roles: Roles  # with the mixing matrix of the shards' sizes
    gpu: GpuUse | None
    notes: tuple[str, ...]  # oddities of data and model

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class CheckedRun:
    """Result of `check_run`: data set, tried model, GPUs in use, notes on settings."""

    info: data.DatasetInfo
    tried: TriedModel
    gpu: GpuUse | None
    settings: tuple[str, ...] = ()

    def notes(self, config: RunConfig, dataset: Path | None = None) -> tuple[str, ...]:
        """Oddities of data, model and settings, a line each.

        `dataset`: the cache file, if the data set has been decoded.
        """
        found = self.info.notes if dataset is None else data.all_notes(self.info, dataset)
        mirrored = (_MIRRORED,) if self.info.is_mirrored and config.data.augment == "auto" else ()
        return (*found, *mirrored, *self.tried.notes, *self.settings)

    def check_split(
        self, roles: Roles, config: RunConfig, dataset: data.Dataset, index: int | None = None
    ) -> CheckedSplit:
        """Split the decoded data set as the run will, and check batch size and GPU memory.

        Raises ConfigError.
        """
        dataset = dataset_of_run(config, dataset)
        if is_own_alone(config, index):
            split = own_split_of(config, dataset, [len(data.remaining(dataset))], 0)
        else:
            split = split_of_run(config, roles, dataset)
        with_common_steps(config, split.mean_size)
        requested = requested_devices(roles.topology)
        if index is not None:
            requested = {index: requested[index]}
        check_gpus(config, requested, max(split.sizes), self.tried.model)
        counts = split.class_counts(dataset.train_labels.numpy(), len(dataset.classes))
        split = replace(split, notes=notes_as_given(split.notes, config))
        return CheckedSplit(split, counts, len(dataset.train_labels) - len(data.remaining(dataset)))


def check_run(roles: Roles, config: RunConfig, index: int | None = None, begins: bool = True) -> CheckedRun:
    """Check settings, data set, model, devices and disk before a run.

    `index`: the only process on this machine, for which devices and disk are checked; None if all run here. `begins`:
    whether the run is new; a resumed one has its checkpoints on disk already. Raises ConfigError naming the option.
    """
    info = data.describe(config.data.dataset, config.data.data_dir, pictures_of(config, index))
    peers = 1 if is_own_alone(config, index) else roles.shards
    tried = check_settings(config, peers, info)
    requested = requested_devices(roles.topology)
    if index is not None:
        requested = {index: requested[index]}
    gpu = check_gpus(config, requested, training_samples(config, info) // peers, tried.model)
    if begins:
        check_disk(config, disk_space_needed(roles, config, Layout.of(tried.model), index))
    return CheckedRun(info, tried, gpu, settings_notes(config, roles.topology, index))


def check_settings(config: RunConfig, peers: int, info: data.DatasetInfo) -> TriedModel:
    """Check settings and model as every peer would, and return the tried model.

    Raises ConfigError naming the option.
    """
    pick_device(config.compute.device, 0)
    if mode_of(config).mixes:
        build_algorithm(config)  # of the user's own
    samples = training_samples(config, info)
    whole, fraction = info.train_samples, config.data.validation
    held = "" if samples == whole else f" (without the {whole - samples:,} held back)"
    few = f"{samples:,} sample{'s' * (samples != 1)} for {peers:,} peers"
    if peers > whole:
        raise ConfigError(f"--dataset {config.data.dataset}: {whole:,} samples for {peers:,} peers; use fewer peers")
    if peers > samples:
        raise ConfigError(f"--validation {fraction:g}: of {whole:,} it leaves {few}; choose a smaller fraction")
    shard, batch = samples // peers, config.training.batch_size
    if batch > shard:
        raise ConfigError(
            f"--batch-size {batch}: a peer's shard has {shard:,} sample{'s' * (shard > 1)} in the mean{held}; "
            f"choose 1 to {shard:,}"
        )
    return check_model(config, len(info.classes))


def disk_space_needed(roles: Roles, config: RunConfig, layout: Layout, process: int | None = None) -> int:
    """Bytes at least that a run, or one process of it, writes: checkpoints and model."""
    whole, sizes = layout.size * 4, checkpoint_sizes(roles, config, layout, process)
    # One more is written before the oldest is removed.
    need = checkpoints_on_disk(roles, config) * sum(sizes) + max(sizes)
    has_model = roles.model_owner is not None and process in (None, roles.model_owner)
    return (need if config.record.checkpoint else 0) + (whole if has_model else 0)


def checkpoint_sizes(roles: Roles, config: RunConfig, layout: Layout, process: int | None = None) -> list[int]:
    """Bytes at least of a late checkpoint, of each process that has one or of one.

    Weights, the optimizer's and the algorithm's state, and what was sent.
    """
    whole, coded = layout.size * 4, coded_bytes(config, layout)
    # The coordinator and the clients of one round have checkpoints; other clients may.
    at_least = roles.topology.n if roles.coordinator is None else config.centralized.num_selected + 1
    processes = range(at_least) if process is None else [process]
    mixes = roles.mode.mixes  # others keep nothing that they have sent
    extra = saved_sizes(config, roles.matrices, processes) if mixes else [SavedSize(0.0, 0.0)] * len(processes)
    weights = (1 + state_vectors(config.training)) * whole
    return [round(weights + one.state * whole + one.payloads * coded) for one in extra]


def coded_bytes(config: RunConfig, layout: Layout) -> int:
    """Bytes that travel in a training round for a model."""
    if not mode_of(config).mixes:
        return layout.size * ITEM_BYTES[config.exchange.wire_dtype]
    return sum(lengths[-1] for lengths in _lengths(config, layout))


def _first_bytes(config: RunConfig, layout: Layout) -> int:
    """Bytes that the first payload on an edge has beyond later ones."""
    if not mode_of(config).mixes:
        return 0
    return sum(lengths[0] - lengths[-1] for lengths in _lengths(config, layout))


def _lengths(config: RunConfig, layout: Layout) -> list[list[int]]:
    """Bytes of each vector of a payload: of the first payload, and of later ones."""
    encodings = build_algorithm(config, buffers=layout.buffers).encodings.values()
    return [list(e.lengths(layout.size)) if e.lengths else [layout.size * e.item_bytes] for e in encodings]


def check_disk(config: RunConfig, need: int) -> None:
    """Raise ConfigError if the disk of the run directory has less room than needed.

    The directory need not exist yet.
    """
    folder = Path(config.record.run_dir or "runs")
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    if free < need:
        raise ConfigError(
            f"--run-dir {folder}: the run will write at least {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free; "
            "make room there, choose another, or leave checkpoints out (--no-checkpoint)"
        )


def data_record(config: RunConfig, path: Path, split: data.Split | None = None) -> DataRecord:
    """Record of a run's data set, which is in the cache file `path`, and of its split."""
    dataset = data.load(path)
    chosen = config.data.augment
    augment = dataset.augment if chosen == "auto" else chosen == "on"
    return DataRecord(config.data.dataset, dataset.content[:DIGITS], augment, "" if split is None else split.digest)


def _no_progress(what: str, done: int, total: int) -> None:
    pass


def estimate(  # longer than others: each field of the result takes a line
    roles: Roles,
    config: RunConfig,
    progress: data.Progress = _no_progress,
    index: int | None = None,
    begins: bool = True,
) -> Estimate:
    """Estimate a run's needs from settings, topology and data set, after `check_run`.

    Nothing is trained or sent. An image folder is decoded, with `progress`, to check its pictures; other data only
    where their labels decide about sizes, and nothing is downloaded. Raises ConfigError for anything that the run
    itself would refuse.
    """
    checked = check_run(roles, config, index, begins)
    info, model = checked.info, checked.tried.model
    arguments = (config.data.dataset, config.data.data_dir, progress, pictures_of(config, index))
    is_split = needs_split(config, roles)
    is_read = is_split or config.data.validation > 0
    path = data.prepare(*arguments) if info.needs_decoding or (is_read and not info.needs_download) else None
    split = checked.check_split(roles, config, data.load(path), index) if is_read and path is not None else None
    samples = training_samples(config, info) if split is None else split.samples
    shards = shard_sizes(samples, 1 if is_own_alone(config, index) else roles.shards, split)
    if roles.awaits_sizes and len(shards.sizes) == roles.shards and (split is not None or not is_split):
        roles = assign_roles(config, roles.topology, shards.sizes)
    steps = [steps_of_shard(config, size, shards.mean) for size in (shards.smallest, shards.largest)]
    layout = Layout.of(model)
    whole, coded = layout.size * 4, coded_bytes(config, layout)
    sent, degree = vectors_sent(roles, config)
    return Estimate(
        train_samples=info.train_samples,
        validation_samples=info.train_samples - training_samples(config, info) if split is None else split.held_out,
        test_samples=info.test_samples if config.data.test else 0,
        class_names=info.classes,
        smallest_shard=shards.smallest,
        largest_shard=shards.largest,
        class_counts=shards.class_counts if is_split else (),
        parameters=layout.parameter_count,
        vector_bytes=coded,
        steps_per_round=steps[0],
        most_steps_per_round=steps[1],
        rounds=config.training.rounds,
        weights_memory=(2 + state_vectors(config.training)) * whole,  # the model, its gradient, the optimizer's state
        activations_memory=_activations_memory(model, config),
        exchange_memory=exchange_memory(config, whole, coded, degree, shares_kept(roles, config)),
        shared_memory=shared_memory(config, roles, whole, coded) if index is None else 0,
        bytes_per_round=round(sum(sent) * coded),
        busiest_bytes_per_round=round(max(sent) * coded),
        training_bytes=round(sum(sent) * coded) * config.training.rounds
        + round(sum(sent) * _first_bytes(config, layout)),
        consensus_rounds=roles.consensus_rounds,
        consensus_bytes=roles.vectors_in_merges(roles.consensus_rounds) * whole,
        checkpoints_kept=checkpoints_on_disk(roles, config) * config.record.checkpoint,
        disk=disk_space_needed(roles, config, layout, index),
        roles=roles,
        gpu=checked.gpu,
        notes=(*checked.notes(config, path), *split_notes(config, is_split, split)),
    )


def _activations_memory(model: nn.Module, config: RunConfig) -> int:
    """Bytes that a training step keeps for its backward pass."""
    activations = config.training.batch_size * count_activations(model, config).kept
    return activations // 2 if config.compute.precision == "bf16" else activations
