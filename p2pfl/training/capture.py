"""Work captured as a CUDA graph, without a trace of the trial runs that this takes."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

Work = Callable[[], None]

WARM_UPS = 3  # runs before the capture, in which libraries choose their kernels and allocate: PyTorch's own number
_CAPTURING = threading.Lock()  # a process can capture only one graph at a time


def capture(work: Work, device: torch.device) -> Work:
    """Run `work` a few times on this GPU, then record it; returns what replays the recording.

    Raises RuntimeError where it cannot be recorded, because it waits for the GPU (such as `.item()` does).
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with _CAPTURING, torch.cuda.device(device):
        before = torch.cuda.current_stream()
        stream.wait_stream(before)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        unspoiled = generator.clone_state()
        try:
            # The outer one, because a failed capture does not set the stream back.
            with torch.cuda.stream(stream):
                with _waiting_refused():
                    for _ in range(WARM_UPS):
                        work()
                # Another thread may well use the GPU meanwhile: it is not the one that is recorded.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    work()
        except BaseException:
            # In some versions of PyTorch a generator stays in a capture that failed, and draws no more.
            generator.graphsafe_set_state(unspoiled)
            raise
        finally:
            before.wait_stream(stream)
        torch.cuda.empty_cache()  # what only the warm-up needed
    return graph.replay


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Operations that wait for the GPU raise RuntimeError, before one can spoil a capture that has begun.

    For the whole process: during the warm-up nothing else in it may use the GPU, which only the training thread does.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it may miss some, which the capture itself then finds
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def untouched(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Whatever is done inside, these tensors and all random generators are afterwards as they were."""
    kept = [tensor.clone() for tensor in tensors]
    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)


def host_draws() -> bytes:
    """Where the random generators on the host are: it changes when somebody draws from one."""
    _, keys, *rest = np.random.get_state(legacy=True)
    parts = (random.getstate(), np.asarray(keys).tobytes(), rest, torch.random.get_rng_state().numpy().tobytes())
    return repr(parts).encode()
