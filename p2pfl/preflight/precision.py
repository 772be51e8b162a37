"""Note on a precision that this machine's CPU computes slowly."""

from __future__ import annotations

import torch

from p2pfl.config import RunConfig
from p2pfl.preflight.gpus import requested_devices
from p2pfl.topology import Topology
from p2pfl.training import pick_device

_NOTE = "this CPU has no AVX-512 and computes bfloat16 in software: --precision fp32 trains several times as fast"


def precision_note(config: RunConfig, topology: Topology, index: int | None = None) -> str | None:
    """Note on `--precision bf16` where a CPU computes it in software, or None.

    `index`: the only process on this machine; None if all run here. It is a note, and no choice of ours: the bits of
    a run depend on its precision. Raises ConfigError for a device that is not there.
    """
    if config.compute.precision != "bf16" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    requested = requested_devices(topology)
    here = requested if index is None else {index: requested[index]}
    devices = {pick_device(config.compute.device, at, name).type for at, name in here.items()}
    return _NOTE if "cpu" in devices else None
