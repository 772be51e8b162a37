"""The run directory: made, opened, taken back; and the resolved settings that are saved in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from p2pfl import config as settings
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.topology import Topology, load_topology, save_topology

CONFIG_FILE = "config.toml"
TOPOLOGY_FILE = "topology.graphml"
EVALUATIONS = 10  # a run, where --eval-every does not say


def resolve(config: RunConfig, topology: Topology, peers_here: int) -> RunConfig:
    """The settings with everything said that was left to a default of this machine or of another option."""
    training, record = config.training, config.record
    both = all("host" in node and "port" in node for _, node in topology.graph.nodes(data=True))
    chosen: dict[str, Any] = {
        "name": record.name or topology.name,
        "threads": config.compute.threads or max(1, _cores() // peers_here),
        "eval_every": record.eval_every or max(1, math.ceil(training.rounds / EVALUATIONS)),
    }
    if training.local_steps is None and training.local_epochs is None:
        chosen["local_epochs"] = 1
    if config.exchange.transport == "auto":
        chosen["transport"] = "tcp" if both else "ipc"
    return settings.replace_options(config, **chosen)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_run_dir(topology: Topology, config: RunConfig, mode: str = "gossip") -> Path:
    """Make the run directory with the settings and the topology in it. Raises ConfigError if it cannot be used."""
    if config.record.run_dir is not None:
        run_dir = Path(config.record.run_dir)
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ConfigError(f"--run-dir {run_dir}: exists already; choose another, or --resume {run_dir}")
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        run_dir = Path("runs") / f"{stamp}-{mode}-{quote(topology.name, safe='')}"
        if run_dir.exists():
            run_dir = run_dir.with_name(f"{run_dir.name}-{secrets.token_hex(2)}")
    try:
        for peer in range(topology.n):
            (run_dir / "peers" / topology.node_path(peer)).mkdir(parents=True, exist_ok=True)
        save_topology(topology, run_dir / TOPOLOGY_FILE)
        # Without the folder, so that running the saved settings again makes a folder of its own.
        repeatable = settings.replace_options(config, run_dir=None)
        repeatable = dataclasses.replace(repeatable, topology=TOPOLOGY_FILE)
        (run_dir / CONFIG_FILE).write_text(settings.to_toml(repeatable), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: cannot be written ({error.strerror})") from None
    return run_dir


def open_run_dir(run_dir: Path) -> tuple[Topology, RunConfig]:
    """The topology and settings that a run directory was made with. Raises ConfigError if it is none."""
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"{run_dir}: no run directory (it has no {CONFIG_FILE})")
    config = settings.load_toml(run_dir / CONFIG_FILE)
    topology = load_topology(run_dir / TOPOLOGY_FILE)
    return dataclasses.replace(topology, name=config.record.name or topology.name), config


def run_fingerprint(topology: Topology, matrix: npt.NDArray[np.float64], config: RunConfig) -> str:
    """A digest of everything that all peers of a run must agree on, names, edges and weights included."""
    shared = settings.options(config)
    for name in settings.PRIVATE | settings.FREE_ON_RESUME:
        del shared[name]
    text = json.dumps([shared, topology.names, np.round(matrix, 12).tolist()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def forget(run_dir: Path) -> None:
    """Take back a run directory in which nothing has happened; one that holds any result stays."""
    results = [*run_dir.glob("peers/*/rounds.jsonl"), *run_dir.glob("peers/*/checkpoint/*")]
    if not any(path.stat().st_size for path in results):
        shutil.rmtree(run_dir, ignore_errors=True)
