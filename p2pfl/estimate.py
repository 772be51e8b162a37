"""What a run will need in memory, messages and steps, known before it starts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from p2pfl import data
from p2pfl.checkpoint import KEPT
from p2pfl.config import RunConfig, is_robust
from p2pfl.data_record import DIGITS, DataRecord
from p2pfl.errors import ConfigError
from p2pfl.exchange import WINDOW
from p2pfl.globalstate import silenced, undisturbed
from p2pfl.gossip.blockwise import SIDE_BLOCK
from p2pfl.parameters import Layout
from p2pfl.plugins import one_line
from p2pfl.preflight import MOST_IMAGES, check_model
from p2pfl.roles import Cast
from p2pfl.topology import Topology, neighborhood
from p2pfl.training import REMEDIES, local_steps, pick_device
from p2pfl.wire import ITEM_BYTES

# What a process takes of a GPU besides its own tensors, as measured on an H200 with CUDA 13 and torch 2.11.
BARE_CONTEXT_BYTES = 550_000_000  # CUDA's context alone
CONTEXT_BYTES = 880_000_000  # the same with the kernels that a training step loads
WORKSPACE_BYTES = 170_000_000  # cuBLAS (32 MiB a thread and stream), cuDNN, and what the allocator rounds up
EVALUATION_BATCH = 256  # images, as in `data.evaluation_batches`

CONSENSUS_VECTORS = 2  # that accelerated averaging keeps besides the model's: the one before and the next
_SAMPLE_BYTES = data.IMAGE_SIDE**2 * 3 + 48  # uint8 image; label, place in the shard, and what an epoch draws
_LIVE = 3  # activations of the largest kind that are needed at the same time besides those that are kept


@dataclass(frozen=True)
class GpuUse:
    """Bytes that one process needs of a GPU; for each GPU that is used its processes and its free bytes."""

    need: int
    processes: Mapping[str, int]
    free: Mapping[str, int]

    def check(self) -> None:
        """Raises ConfigError where a GPU has no room for its processes."""
        for device, count in self.processes.items():
            free = self.free[device]
            if count * self.need > free:
                each = f" ({self.need / 1e9:.1f} GB each)" if count > 1 else ""
                raise ConfigError(
                    f"{device}: {count} process{'es' * (count > 1)} of this run need {count * self.need / 1e9:.1f} GB"
                    f"{each}, and {free / 1e9:.1f} GB are free, enough for {free // self.need}; choose {REMEDIES}"
                )


@dataclass(frozen=True)
class Activations:
    """Bytes in float32: `kept` for the backward pass by one sample, and `largest` of one tensor of one sample."""

    kept: int
    largest: int


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
    gpu: GpuUse | None
    notes: tuple[str, ...]  # what is odd about the data


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
    return check_model(config, len(info.classes))


def check_gpus(config: RunConfig, wished: Mapping[int, str], shard: int, model: nn.Module) -> GpuUse | None:
    """What the processes will need of the GPUs, and whether there is so much; None where all run on the CPU.

    `wished`: what the topology file says of each process's device, as in `wished_devices`. `shard`: samples of each.
    Raises ConfigError for a device that is not there, or has no room for the processes that share it.
    """
    devices = [pick_device(config.compute.device, index, name) for index, name in wished.items()]
    processes = Counter(str(device) for device in devices if device.type == "cuda")
    if not processes:
        return None
    need = gpu_need(config, 4 * Layout.of(model).size, _activations(model, config), shard)
    use = GpuUse(need, processes, {device: _free(device) for device in processes})
    use.check()
    return use


def wished_devices(topology: Topology) -> dict[int, str]:
    """The device that the topology file names for each process; empty where it names none."""
    return {index: str(topology.graph.nodes[index].get("device", "")) for index in range(topology.n)}


def gpu_need(config: RunConfig, whole: int, activations: Activations, shard: int) -> int:
    """Bytes of a GPU that one process needs, whose model takes `whole` bytes and whose shard has so many samples.

    A captured step keeps its activations and gradients for good, so that an evaluation needs memory of its own.
    """
    bf16 = config.compute.precision == "bf16"
    vectors = 3 + 2 * (config.server.proximal_mu > 0)  # model, gradient, momentum; FedProx's anchor and difference
    step = config.training.batch_size * (activations.kept + _LIVE * activations.largest)
    evaluation = EVALUATION_BATCH * _LIVE * activations.largest
    if bf16:
        step, evaluation = step // 2 + whole // 2, evaluation // 2  # the weights are cast too
    # Before the first step a copy of the model and the warm-up's gradients: gone when the first evaluation comes.
    passing = max(evaluation, 2 * whole)
    return CONTEXT_BYTES + WORKSPACE_BYTES + vectors * whole + step + passing + shard * _SAMPLE_BYTES


def _free(device: str) -> int:
    """Bytes that a GPU has free for the run. Raises ConfigError where it cannot be used."""
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device}: cannot be used ({one_line(error)}); choose another or cpu") from None
    # The asking process has a context, too: it is gone by then, or is the peer itself, whose need includes one.
    return min(free + BARE_CONTEXT_BYTES, total)


def disk_need(parts: Cast, config: RunConfig, layout: Layout, process: int | None = None) -> int:
    """Bytes that a run writes at the least: checkpoints and its model; or what one process of it writes."""
    training, exchanges = config.training, any(parts.links)
    whole, coded = layout.size * 4, layout.size * ITEM_BYTES[config.exchange.wire_dtype]
    # The coordinator and those of its clients that train in the same round have checkpoints; the others may.
    at_least = parts.topology.n if parts.coordinator is None else config.centralized.num_selected + 1
    processes = at_least if process is None else 1
    checkpoints = min(KEPT, training.rounds) * processes + 1  # one that is written before the oldest is removed
    need = checkpoints * (2 * whole + coded * exchanges) if config.record.checkpoint else 0
    has_model = parts.model_holder is not None and process in (None, parts.model_holder)
    return need + (whole if has_model else 0)


def check_disk(config: RunConfig, need: int) -> None:
    """Raises ConfigError where the disk of the run directory, which may not exist yet, has less room than needed."""
    folder = Path(config.record.run_dir or "runs")
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    if free < need:
        raise ConfigError(
            f"--run-dir {folder}: the run will write at least {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free; "
            "make room there, choose another, or leave checkpoints out (--no-checkpoint)"
        )


def data_notes(config: RunConfig, info: data.DatasetInfo, progress: data.Progress) -> tuple[str, ...]:
    """Notes on the data, a line each; an image folder is decoded as for the run.

    Raises ConfigError for data that cannot be used.
    """
    if not info.needs_decoding:
        return _with_augmentation(config, info.notes)
    return prepared_notes(
        config, info, data.prepare(config.data.dataset, config.data.data_dir, progress, config.data.pictures)
    )


def prepared_notes(config: RunConfig, info: data.DatasetInfo, path: Path) -> tuple[str, ...]:
    """The same once the data set is in the cache file `path`."""
    return _with_augmentation(config, data.all_notes(info, path))


def data_record(config: RunConfig, path: Path) -> DataRecord:
    """What a run records of its data set, which is in the cache file `path`."""
    dataset = data.load(path)
    chosen = config.data.augment
    augment = dataset.augment if chosen == "auto" else chosen == "on"
    return DataRecord(config.data.dataset, dataset.content[:DIGITS], augment)


def _with_augmentation(config: RunConfig, notes: tuple[str, ...]) -> tuple[str, ...]:
    """Add a note on mirroring, which makes left and right the same."""
    is_folder = config.data.dataset.partition(":")[0] == "imagefolder"
    mirrored = "training images are shifted and mirrored at random; --augment off where left and right matter"
    return (*notes, mirrored) if is_folder and config.data.augment == "auto" else notes


def estimate(parts: Cast, config: RunConfig, progress: data.Progress = lambda *_: None) -> Estimate:
    """Look at settings, topology and data set without training or sending anything.

    An image folder is decoded, with `progress`, since only that tells whether its pictures can be used; nothing else
    is decoded or downloaded. Raises ConfigError for whatever the run itself would refuse.
    """
    info = data.describe(config.data.dataset, config.data.data_dir, config.data.pictures)
    model = check(config, parts.shards, info)
    shard = info.train_samples // parts.shards
    steps = local_steps(config.training, shard // config.training.batch_size)
    layout = Layout.of(model)
    whole = layout.size * 4
    coded = layout.size * ITEM_BYTES[config.exchange.wire_dtype]
    sent, degree = _traffic(parts, config)
    check_disk(config, disk_need(parts, config, layout))
    activations = config.training.batch_size * _activations(model, config).kept
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
        activations_memory=activations // 2 if config.compute.precision == "bf16" else activations,
        exchange_memory=_exchange_memory(config, whole, coded, degree),
        bytes_per_round=sum(sent) * coded,
        busiest_bytes_per_round=max(sent) * coded,
        consensus_rounds=parts.consensus_rounds,
        consensus_bytes=sum(sent) * whole * parts.consensus_rounds,
        gpu=check_gpus(config, wished_devices(parts.topology), shard, model),
        notes=data_notes(config, info, progress),
    )


def _traffic(parts: Cast, config: RunConfig) -> tuple[list[int], int]:
    """Vectors that each process sends in a round, and how many the one that receives most receives."""
    if parts.coordinator is not None:
        selected = config.centralized.num_selected
        return [1] * selected + [selected], selected
    hoods = [neighborhood(parts.matrix, peer) for peer in range(parts.shards)]
    return [len(hood.outgoing) for hood in hoods], max(len(hood.incoming) for hood in hoods)


def _exchange_memory(config: RunConfig, whole: int, coded: int, degree: int) -> int:
    """What was sent, averages, and others' vectors until they are folded, at the time when that is most."""
    if not degree:
        return 0
    waiting = min(degree, WINDOW)
    if is_robust(config):
        blocks = (degree + 2) * SIDE_BLOCK * 4
        if config.mode == "gossip":  # the consensus phase again: every neighbor's vector, and those of the next round
            return coded + (1 + degree + waiting) * whole + blocks
        return 2 * whole + (coded if coded != whole else 0) + degree * coded + blocks
    if config.mode == "gossip":  # the consensus phase, which exchanges float32 while what training sent last is kept
        return coded + (CONSENSUS_VECTORS + waiting) * whole
    return 2 * whole + (coded if coded != whole else 0) + waiting * coded


def _activations(model: nn.Module, config: RunConfig) -> Activations:
    """What a training step keeps for its backward pass, counted on a small batch."""
    kept: dict[int, Tensor] = {}  # by storage: layers share what they keep

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    batch = min(config.training.batch_size, MOST_IMAGES)
    images = torch.zeros((batch, 3, data.IMAGE_SIDE, data.IMAGE_SIDE))
    with undisturbed(), silenced(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.train()
        model(images)
    sizes = [tensor.numel() * tensor.element_size() for tensor in kept.values()]
    return Activations(kept=-(-sum(sizes) // batch), largest=-(-max(sizes, default=0) // batch))
