"""Which device a process trains on."""

from __future__ import annotations

import torch

from p2pfl.errors import ConfigError

_MOST_DIGITS = 9  # Python itself refuses to read some thousands of them


def pick_device(wanted: str, index: int, from_file: str = "") -> torch.device:
    """The device of one peer: the topology file's, or auto: GPUs in turn, else CPU. Raises ConfigError."""
    name, said = wanted, f"--device {wanted}"
    if wanted == "auto" and from_file:
        name, said = from_file, f"device {from_file} in the topology file"
    count = torch.cuda.device_count()
    if name in ("auto", "cuda"):
        if count:
            return torch.device("cuda", index % count)
        if name == "cuda":
            raise ConfigError(f"{said}: there is no GPU that PyTorch can use; choose cpu or auto")
        return torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isascii() and number.isdecimal()):
        hint = ", or drop the topology file's with `topology fix --drop-addresses`" if name == from_file else ""
        raise ConfigError(f"{said}: unknown; choose auto, cpu, cuda or cuda:0{hint}")
    # Not PyTorch's own check: it keeps the number in eight bits, and quotes cuda:99999 as cuda:-97.
    if len(number) > _MOST_DIGITS or int(number) >= count:
        raise ConfigError(f"{said}: PyTorch sees {count} GPUs here; choose another or cpu")
    return torch.device("cuda", int(number))
