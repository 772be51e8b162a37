"""What a run will need in memory, messages and steps, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.exchange import WINDOW
from p2pfl.parameters import Layout
from p2pfl.plugins import one_line
from p2pfl.roles import Cast
from p2pfl.topology import neighborhood
from p2pfl.training import initial_model, local_steps, pick_device
from p2pfl.wire import ITEM_BYTES

_SMALL_BATCH = 8


@dataclass(frozen=True)
class Estimate:
    """Bytes, samples and steps of a run. Memory is per peer, beyond the libraries and the shared data set."""

    train_samples: int
    test_samples: int
    classes: int
    smallest_shard: int
    parameters: int
    vector_bytes: int
    steps_per_round: int
    rounds: int
    weights_memory: int
    activations_memory: int
    exchange_memory: int
    bytes_per_round: int
    busiest_bytes_per_round: int
    consensus_rounds: int
    consensus_bytes: int


def check(config: RunConfig, peers: int, info: data.DatasetInfo) -> nn.Module:
    """What every peer would find wrong with the settings, found before any is started; returns the model.

    Raises ConfigError naming the option.
    """
    pick_device(config.compute.device, 0)
    if peers > info.train_samples:
        raise ConfigError(f"--dataset {config.data.dataset}: {info.train_samples} samples for {peers} peers")
    shard, batch = info.train_samples // peers, config.training.batch_size
    if batch > shard:
        raise ConfigError(f"--batch-size {batch}: a peer's shard has {shard} samples; choose 1 to {shard}")
    return initial_model(config, len(info.classes))


def estimate(parts: Cast, config: RunConfig) -> Estimate:
    """Look at settings, topology and data set without decoding, training or sending anything.

    Raises ConfigError for whatever the run itself would refuse.
    """
    info = data.describe(config.data.dataset, config.data.data_dir)
    model = check(config, parts.shards, info)
    shard = info.train_samples // parts.shards
    steps = local_steps(config.training, shard // config.training.batch_size)
    layout = Layout.of(model)
    whole = layout.size * 4
    coded = layout.size * ITEM_BYTES[config.exchange.wire_dtype]
    sent, degree = _traffic(parts, config)
    return Estimate(
        train_samples=info.train_samples,
        test_samples=info.test_samples,
        classes=len(info.classes),
        smallest_shard=shard,
        parameters=layout.parameter_count,
        vector_bytes=coded,
        steps_per_round=steps,
        rounds=config.training.rounds,
        weights_memory=3 * whole,  # the model, its gradient, its momentum
        activations_memory=_activations(model, config, len(info.classes)),
        exchange_memory=_exchange_memory(whole, coded, degree),
        bytes_per_round=sum(sent) * coded,
        busiest_bytes_per_round=max(sent) * coded,
        consensus_rounds=parts.consensus_rounds,
        consensus_bytes=sum(sent) * whole * parts.consensus_rounds,
    )


def _traffic(parts: Cast, config: RunConfig) -> tuple[list[int], int]:
    """Vectors that each process sends in a round, and how many the one that receives most receives."""
    if parts.coordinator is not None:
        selected = config.centralized.num_selected
        return [1] * selected + [selected], selected
    hoods = [neighborhood(parts.matrix, peer) for peer in range(parts.shards)]
    return [len(hood.outgoing) for hood in hoods], max(len(hood.incoming) for hood in hoods)


def _exchange_memory(whole: int, coded: int, degree: int) -> int:
    """Own vector and average, its form on the wire, and others' vectors until they are folded."""
    if not degree:
        return 0
    return 2 * whole + (coded if coded != whole else 0) + min(degree, WINDOW) * coded


def _activations(model: nn.Module, config: RunConfig, classes: int) -> int:
    """Bytes that one training step keeps for its backward pass, counted on a small batch."""
    kept: dict[int, Tensor] = {}  # by storage: layers share what they keep

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    batch = min(config.training.batch_size, _SMALL_BATCH)
    images = torch.zeros((batch, 3, data.IMAGE_SIDE, data.IMAGE_SIDE))
    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            scores = model.train()(images)
    except Exception as error:
        raise ConfigError(f"--model {config.model.model}: fails on a batch of images: {one_line(error)}") from error
    if tuple(scores.shape) != (batch, classes):
        raise ConfigError(
            f"--model {config.model.model}: gives {tuple(scores.shape)} for {batch} images, not ({batch}, {classes})"
        )
    total = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    whole = total * config.training.batch_size // batch
    return whole // 2 if config.compute.precision == "bf16" else whole
