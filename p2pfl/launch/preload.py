"""Heavy libraries that the fork server imports for all workers; only it does."""

from __future__ import annotations

import contextlib
from importlib import import_module

PRELOADED = (
    "torch",
    "torchvision",
    "zmq",
    "networkx",
    "safetensors.torch",
    "p2pfl.node.worker",
    "p2pfl.preflight.estimate",
)

for _name in PRELOADED:
    # The server would print a traceback and die of any error but ImportError, such as a lack of memory. The processes
    # that it forks import the same again, and report the failure.
    with contextlib.suppress(Exception):
        import_module(_name)
