"""State of a worker, as the supervisor knows it."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfl.launch import events as ev


@dataclass
class WorkerState:
    """State of a worker, according to the events; `failure` is its own account."""

    index: int
    is_alive: bool = False
    is_lost: bool = False
    endpoint: str | None = None
    lost_weights: bool = False
    done_since: float | None = None
    heard: float = 0.0
    round_began: float = 0.0
    failure: ev.Failed | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has finished its last round."""
        return self.done_since is not None
