"""Which device a process trains on."""

from __future__ import annotations

import torch

from p2pfl.errors import ConfigError


def pick_device(wanted: str, index: int, from_file: str = "") -> torch.device:
    """The device of one peer: the topology file's, or auto: GPUs in turn, else CPU. Raises ConfigError."""
    name = from_file if wanted == "auto" and from_file else wanted
    count = torch.cuda.device_count()
    if name in ("auto", "cuda"):
        if count:
            return torch.device("cuda", index % count)
        if name == "cuda":
            raise ConfigError("--device cuda: there is no GPU that PyTorch can use; choose cpu or auto")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        hint = ", or drop the topology file's with `topology fix --drop-addresses`" if name == from_file else ""
        raise ConfigError(f"device {name!r}: unknown; choose auto, cpu, cuda or cuda:0{hint}") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise ConfigError(f"device {name}: PyTorch sees {count} GPUs here; choose another or cpu")
    return device
