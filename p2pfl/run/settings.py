"""Resolution of a run's settings: defaults of machine, topology and mode, checks."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from p2pfl import config as settings
from p2pfl import registry
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, check_faults, load_faults
from p2pfl.model.weights_file import read_weights
from p2pfl.modes import COORDINATOR, mode_of
from p2pfl.run.partition_file import partition_bytes
from p2pfl.topology import Topology
from p2pfl.util.text import some

EVALUATIONS = 10  # in a run, unless --eval-every is given
EVAL_SAMPLES = 1000  # in an evaluation of many peers during the run


def resolve(config: RunConfig, topology: Topology, processes: int) -> RunConfig:
    """Fill in defaults that depend on this machine, the topology or other options.

    `processes`: how many share this machine's cores. Raises ConfigError for options that mean nothing in the run's
    mode, or do not fit together.
    """
    _refuse_foreign(config)
    settings.check_together(config)
    settings.check_launch(config)
    registry.check_installed("launcher", config.launch.launcher)
    check_profile(config, topology)
    fault_script(config, topology)
    if config.training.init is not None:
        read_weights(config.training.init)
    if config.data.partition_file is not None:
        partition_bytes(config.data.partition_file)
    mode, least = mode_of(config), config.gossip.min_peers
    if mode.mixes and least is not None and least > topology.n:
        raise ConfigError(f"--min-peers {least}: the topology has only {topology.n} peers")
    training, record = config.training, config.record
    eval_every = 1 if mode.evaluates_each_round else max(1, math.ceil(training.rounds / EVALUATIONS))
    eval_samples = 0 if mode.evaluates_fully else EVAL_SAMPLES
    chosen: dict[str, Any] = {
        "name": record.name or topology.name,
        "dataset": config.data.located,
        "data_dir": config.data.data_dir and os.path.abspath(os.path.expanduser(config.data.data_dir)),
        "threads": config.compute.threads or _threads(config, processes),
        "eval_every": record.eval_every or eval_every,
        "eval_samples": eval_samples if record.eval_samples is None else record.eval_samples,
    }
    if settings.spans_machines(config) and config.launch.gpus_per_peer == 0:
        chosen["device"] = "cpu"
    if training.local_steps is None and training.local_epochs is None:
        chosen["local_epochs"] = 1
    if settings.spans_machines(config) and config.exchange.transport == "auto":
        chosen["transport"] = "tcp"  # each process makes keys, and links are encrypted
    if mode.mixes and config.exchange.keys is not None:
        if not config.exchange.keys:
            raise ConfigError("--keys: needs the folder that p2pfl keys wrote (-o)")
        chosen["keys"] = os.path.abspath(config.exchange.keys)
    if mode.mixes and config.exchange.token_file is not None:
        chosen["token_file"] = os.path.abspath(config.exchange.token_file)
    where = config.exchange.rendezvous
    if mode.mixes and where is not None and not where.startswith("tcp://"):
        chosen["rendezvous"] = os.path.abspath(where)
    return settings.replace_options(config, **chosen)


def _refuse_foreign(config: RunConfig) -> None:
    for name, value in settings.foreign_options(config).items():
        option = "--" + name.replace("_", "-")
        raise ConfigError(f"{option} {value}: means nothing in a {config.mode} run; leave it out")


def fault_script(config: RunConfig, topology: Topology, path: str | Path | None = None) -> FaultScript:
    """Read and check the run's fault script, or return an empty one.

    `path`: of the script, if not the one in the settings. Raises ConfigError where it does not fit the run.
    """
    where = path or config.exchange.faults
    if config.exchange.faults is None or where is None:
        return FaultScript(names=topology.names)
    script = load_faults(where, config.record.seed)
    coordinator = COORDINATOR if mode_of(config).has_coordinator else None
    overlapped = mode_of(config).mixes and config.gossip.order == "overlapped"
    return check_faults(script, str(where), topology.names, config.training.rounds, coordinator, overlapped)


def check_profile(config: RunConfig, topology: Topology) -> None:
    """Raise ConfigError if --profile names a node or a round that does not exist."""
    asked = config.record.profile
    if asked is None:
        return
    node, _, round = asked.rpartition(":")
    if node not in topology.names:
        raise ConfigError(f"--profile {asked}: there is no node {node}; choose one of {some(topology.names, 8)}")
    if int(round) > config.training.rounds:
        raise ConfigError(f"--profile {asked}: the run has {config.training.rounds} rounds of training (--rounds)")


def _threads(config: RunConfig, processes: int) -> int:
    """Threads of a process: its CPUs of a cluster, or its share of the cores."""
    if settings.spans_machines(config):
        return max(1, int(config.launch.cpus_per_peer))
    return max(1, _cores() // processes)


def _cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
