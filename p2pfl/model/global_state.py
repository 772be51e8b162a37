"""Global state of Python, numpy and torch: saved, restored, seeded, silenced."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch

# torch's layers draw from one generator a process; peers that are threads (in tests) must not reseed it at once.
RANDOMNESS = threading.Lock()


def _set_default_device(device: torch.device) -> None:
    # None takes torch's device mode away, which would otherwise slow down every call.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_gradient_mode(enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


# Settings that training depends on and must not inherit from a user's code: name -> getter and setter.
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradient mode": (torch.is_grad_enabled, _set_gradient_mode),
    "default device": (torch.get_default_device, _set_default_device),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
}


def settings_now() -> dict[str, Any]:
    """Settings of torch for the whole process, by name."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


@contextmanager
def preserved_global_state() -> Iterator[None]:
    """Restore global random generators and torch's settings afterwards."""
    before = settings_now()
    own, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)
        for name, value in settings_now().items():
            if value != before[name]:
                _SETTINGS[name][1](before[name])


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python.

    Use it within `preserved_global_state`.
    """
    # Without an accelerator only the CPU's generator: torch.manual_seed would keep a stack trace for each kind of them,
    # in lists that grow with every call.
    seed_torch = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    seed_torch(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard output and warnings, so that a refusal stays one line."""
    with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
