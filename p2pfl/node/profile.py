"""Profile of one round of a process, as a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError, unwritable
from p2pfl.run.paths import PROFILE_FILE


class RoundProfile:
    """Profiler of both threads of a worker, from the start of a round to its saving.

    `path`: file of the trace; None if no profile was asked for, and then nothing here costs anything.
    """

    def __init__(self, path: Path | None = None, round: int = 0) -> None:
        self.path = path
        self.written = path is not None and path.exists()  # a resumed run may have done so before
        self.round = round
        self._profiler: profile | None = None

    @classmethod
    def of(cls, config: RunConfig, name: str, peer_dir: Path) -> RoundProfile:
        """Profile that --profile asks of the process called `name`."""
        peer, _, round = (config.record.profile or "").rpartition(":")
        if not round or peer != name:
            return cls()
        return cls(peer_dir / PROFILE_FILE.format(round=int(round)), int(round))

    def begin(self, round: int) -> None:
        """Start profiling if this is the round; rounds may be skipped."""
        if self.path is None or self.written:
            return
        if round == self.round and self._profiler is None:
            self._profiler = _profiler()
            self._profiler.start()
        elif round > self.round:  # the client was not drawn for it
            self.close()

    def end(self, round: int) -> None:
        """Write the trace if this was the round.

        Raises CheckpointError where it cannot be written.
        """
        if self._profiler is None or round != self.round:
            return
        profiler, self._profiler = self._profiler, None  # even after an error it is not stopped twice
        profiler.stop()
        assert self.path is not None
        unfinished = self.path.with_name(f".{self.path.name}")
        try:
            profiler.export_chrome_trace(str(unfinished))
            os.replace(unfinished, self.path)  # a resumed run assumes that an existing file is complete
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise CheckpointError(unwritable(self.path, error)) from None
        self.written = True

    def close(self) -> None:
        """Stop profiling a round that did not end."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def span(self, name: str) -> AbstractContextManager[object]:
        """Context whose work appears under `name` in the trace."""
        return nullcontext() if self._profiler is None else record_function(name)


def _profiler() -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    try:
        # By default only the thread that starts the profiler is profiled; training runs in another one.
        everything = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    except TypeError:  # torch before 2.7
        everything = None
    return profile(activities=activities, experimental_config=everything)
