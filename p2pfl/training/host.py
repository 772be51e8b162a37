"""A GPU's model on the host, and the stream on which it is copied there and back."""

from __future__ import annotations

import torch
from torch import Tensor

from p2pfl.model.vector import aligned_vector


class HostCopy:
    """A GPU's vector on the host: `host`, in pinned memory. It may be set to another such vector.

    The wire's bfloat16 numbers are not made on the GPU, since that gains nothing: on the host the cast of VGG-11's
    9.8 million numbers takes 3.2 ms, and merely copying them from where the GPU had left them 2.2 ms, to which comes
    a second transfer. (They must be copied: neighbors may still take the last round's.)
    """

    def __init__(self, vector: Tensor) -> None:
        self._vector = vector
        self.host = aligned_vector(vector.numel(), pin=True)
        self._stream = torch.cuda.Stream(vector.device)  # type: ignore[no-untyped-call]

    def fetch(self) -> None:
        """host := vector, once the device's work until now is done."""
        self._copy(self.host, self._vector)

    def push(self) -> None:
        """vector := host, before the device's work from now on."""
        self._copy(self._vector, self.host)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        """Returns when it is done, since what comes next on the host reads `host`, or may write it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._vector.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            sleep_until_done()


def sleep_until_done() -> None:
    """Wait for the current stream without keeping a core busy, as CUDA does by default: peers share the cores."""
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()
    done.synchronize()
