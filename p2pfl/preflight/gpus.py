"""GPU memory that the processes of a run need, checked against the free memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p2pfl import data
from p2pfl.config import RunConfig, spans_machines
from p2pfl.errors import ConfigError, one_line
from p2pfl.model.global_state import preserved_global_state, silenced
from p2pfl.model.vector import Layout
from p2pfl.topology import Topology
from p2pfl.training import REMEDIES, pick_device
from p2pfl.training.optimizer import state_vectors

# Memory of a process on a GPU besides its tensors, as measured on an H200 with CUDA 13 and torch 2.11.
BARE_CONTEXT_BYTES = 550_000_000  # CUDA context alone
CONTEXT_BYTES = 880_000_000  # the same with the kernels that a training step loads
WORKSPACE_BYTES = 170_000_000  # cuBLAS (32 MiB a thread and stream), cuDNN, rounding by the allocator
_SAMPLE_BYTES = data.IMAGE_SIDE**2 * 3 + 48  # uint8 image; label, place in the shard, an epoch's draws
_LIVE = 3  # activations of the largest size that are needed at once, besides those that are kept
_SMALL_BATCH = 32  # images on which activations are counted


@dataclass(frozen=True)
class GpuUse:
    """GPU memory of a run.

    `need`: bytes that one process needs. `processes`, `free`: the processes on each GPU, and its free bytes.
    """

    need: int
    processes: Mapping[str, int]
    free: Mapping[str, int]

    def check(self) -> None:
        """Raise ConfigError if a GPU has no room for its processes."""
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
    """Bytes of activations per sample in float32.

    `kept`: for the backward pass; `largest`: of the largest tensor.
    """

    kept: int
    largest: int


def check_gpus(config: RunConfig, requested: Mapping[int, str], shard: int, model: nn.Module) -> GpuUse | None:
    """Check the GPU memory that the processes need; None if none of this machine's.

    `requested`: each process's device in the topology file, as in `requested_devices`. `shard`: samples of each. Raises
    ConfigError for a missing device, and for one without room for the processes that share it.
    """
    if spans_machines(config):
        return None  # the processes' GPUs are not this machine's
    devices = [pick_device(config.compute.device, index, name) for index, name in requested.items()]
    processes = Counter(str(device) for device in devices if device.type == "cuda")
    if not processes:
        return None
    need = gpu_need(config, 4 * Layout.of(model).size, count_activations(model, config), shard)
    use = GpuUse(need, processes, {device: _free(device) for device in processes})
    use.check()
    return use


def requested_devices(topology: Topology) -> dict[int, str]:
    """Device that the topology file names for each process; empty if it names none."""
    return {index: str(topology.graph.nodes[index].get("device", "")) for index in range(topology.n)}


def gpu_need(config: RunConfig, whole: int, activations: Activations, shard: int) -> int:
    """Bytes of GPU memory that one process needs.

    `whole`: bytes of its model; `shard`: samples of its shard. A captured step keeps its activations and gradients, so
    an evaluation needs further memory.
    """
    bf16 = config.compute.precision == "bf16"
    # Model, gradient, the optimizer's state; FedProx's anchor and difference.
    vectors = 2 + state_vectors(config.training) + 2 * (config.server.proximal_mu > 0)
    step = config.training.batch_size * (activations.kept + _LIVE * activations.largest)
    evaluation = data.EVALUATION_BATCH * _LIVE * activations.largest
    if bf16:
        step, evaluation = step // 2 + whole // 2, evaluation // 2  # the weights are cast too
    # Before the first step a copy of the model and the warm-up's gradients exist, which are freed before evaluations.
    passing = max(evaluation, 2 * whole)
    return CONTEXT_BYTES + WORKSPACE_BYTES + vectors * whole + step + passing + shard * _SAMPLE_BYTES


def _free(device: str) -> int:
    """Free bytes of a GPU. Raises ConfigError if it cannot be used."""
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device}: cannot be used ({one_line(error)}); choose another or cpu") from None
    # This process has a context, too: it is gone by then, or is the peer itself, whose need includes one.
    return min(free + BARE_CONTEXT_BYTES, total)


def count_activations(model: nn.Module, config: RunConfig) -> Activations:
    """Count the activations that a training step keeps, on a small batch."""
    kept: dict[int, Tensor] = {}  # by storage: layers share what they keep

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    batch = min(config.training.batch_size, _SMALL_BATCH)
    images = torch.zeros((batch, 3, data.IMAGE_SIDE, data.IMAGE_SIDE))
    with preserved_global_state(), silenced(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.train()
        model(images)
    sizes = [tensor.numel() * tensor.element_size() for tensor in kept.values()]
    return Activations(kept=-(-sum(sizes) // batch), largest=-(-max(sizes, default=0) // batch))
