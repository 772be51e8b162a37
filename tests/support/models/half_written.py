"""Model whose module stops one peer in the middle of a checkpoint.

Which one: P2PFL_TEST_HALF=NAME:ROUND.

Every worker imports the module of a user's model before it saves anything, and so it works in real processes.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import safetensors.torch
from user_models import linear as linear

_save_file = safetensors.torch.save_file


def _save_half(tensors: Any, path: Any, metadata: Any = None) -> None:
    _save_file(tensors, path, metadata=metadata)
    name, number = os.environ["P2PFL_TEST_HALF"].split(":")
    if f"/peers/{name}/checkpoint/.round-{int(number):06d}.safetensors." in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        threading.Event().wait()


if "P2PFL_TEST_HALF" in os.environ:
    safetensors.torch.save_file = _save_half
