"""Notes on the settings of a run, before it starts."""

from __future__ import annotations

from p2pfl.config import RunConfig
from p2pfl.modes import mixing_note
from p2pfl.preflight.precision import precision_note
from p2pfl.preflight.schedules import schedule_note
from p2pfl.topology import Topology
from p2pfl.training.optimizer import rate_notes


def settings_notes(config: RunConfig, topology: Topology, index: int | None = None) -> tuple[str, ...]:
    """Notes on learning rate, mixing and precision, a line each.

    `index`: the only process on this machine; None if all run here. Raises ConfigError for a device that is not there.
    """
    mixing = (schedule_note if topology.is_schedule else mixing_note)(config, topology)
    notes = (mixing, precision_note(config, topology, index))
    return (*rate_notes(config.training), *(note for note in notes if note is not None))
