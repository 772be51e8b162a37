"""Fault scripts: reproducible faults of processes and messages, round by round.

A script is a TOML file of `[[fault]]` tables. Every fault is carried out by the process that it happens to, at a named
point of a round, because a kill by the clock never hits the same instant twice. Random choices are drawn from the
script's `seed` and the position in the run, never from time.
"""

from p2pfl.faults.parser import check_faults, idle_faults, load_faults
from p2pfl.faults.script import (
    BEFORE_EXCHANGE,
    AttackFault,
    Corrupt,
    Delay,
    Drop,
    Fault,
    FaultScript,
    Kill,
    NetworkPartition,
    Pause,
    Point,
)

__all__ = [
    "BEFORE_EXCHANGE",
    "AttackFault",
    "Corrupt",
    "Delay",
    "Drop",
    "Fault",
    "FaultScript",
    "Kill",
    "NetworkPartition",
    "Pause",
    "Point",
    "check_faults",
    "idle_faults",
    "load_faults",
]
