"""One run from its settings to its results: run directory, launch, summary, report."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from p2pfl import config as settings
from p2pfl.config import RunConfig
from p2pfl.display import Plan as DisplayPlan
from p2pfl.display import make_display
from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launcher import Launch, Outcome, launch
from p2pfl.report import read_summary, summarize, write_report, write_summary
from p2pfl.topology import Topology, consensus_rounds, load_topology, mixing_matrix, save_topology

CONFIG_FILE = "config.toml"
TOPOLOGY_FILE = "topology.graphml"
_PACKAGES = ("p2pfl-swarm", "torch", "torchvision", "pyzmq", "networkx", "numpy")


class Interrupted(P2PFLError):
    """The user ended the run; what was recorded is kept: exit status 130."""


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and the fields of `summary.json`."""

    run_dir: Path
    summary: dict[str, Any]


def run_swarm(topology: Topology, config: RunConfig | None = None, *, resume: Path | None = None) -> Result:
    """Train one model over a topology, one process a peer, and return where the results are.

    The same as `p2pfl gossip`. `resume` is the run directory of an interrupted run with the same settings. Scripts
    must call it under `if __name__ == "__main__":`, because every peer process imports the script.

    Raises ConfigError (bad input), Interrupted (Ctrl-C), P2PFLError (the run failed); what was recorded until then
    is in the run directory, with a summary and a report.
    """
    config = config or RunConfig()
    matrix = mixing_matrix(topology, config.exchange.mixing)
    binds = endpoints_in_file(topology, config)
    run_dir = resume or create_run_dir(topology, config)
    try:
        if resume is not None and _is_complete(resume):
            return Result(resume, read_summary(resume))
        outcome = _launch(topology, matrix, config, run_dir, binds, resume is not None)
    except ConfigError:
        if resume is None:
            _forget(run_dir)
        raise
    return _conclude(run_dir, outcome)


def _launch(
    topology: Topology,
    matrix: npt.NDArray[np.float64],
    config: RunConfig,
    run_dir: Path,
    binds: list[str] | None,
    resume: bool,
) -> Outcome:
    fingerprint = run_fingerprint(topology, matrix, config)
    mixing_only = consensus_rounds(matrix, config.exchange.consensus_tolerance)
    plan = DisplayPlan(
        mode="gossip",
        name=topology.name,
        peers=topology.names,
        rounds=config.training.rounds,
        consensus_rounds=mixing_only,
        run_dir=run_dir,
        batch_size=config.training.batch_size,
    )
    started = Launch(
        topology=topology,
        matrix=matrix,
        config=config,
        run_dir=run_dir,
        # The second half keeps a stray peer of an earlier launch out of this one.
        run=f"{fingerprint[:16]}-{secrets.token_hex(8)}",
        settings=fingerprint,
        resume=resume,
        binds=binds,
    )
    with make_display(plan) as display:
        display.say(f"results in {run_dir}")
        return launch(started, display)


def _conclude(run_dir: Path, outcome: Outcome) -> Result:
    lost = outcome.lost if outcome.status == "failed" else []
    summary = summarize(run_dir, lost_peers=lost, versions=versions(), seconds=outcome.seconds)
    write_summary(run_dir, summary)
    if outcome.status == "usage" and not summary["samples_total"]:
        _forget(run_dir)
        raise ConfigError(outcome.reason)
    write_report(run_dir)
    if outcome.status == "interrupted":
        raise Interrupted(f"{outcome.reason}: p2pfl gossip --resume {run_dir}")
    if outcome.status != "complete":
        raise P2PFLError(f"{outcome.reason} (what was recorded is in {run_dir})")
    return Result(run_dir, summary)


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
        (run_dir / CONFIG_FILE).write_text(settings.to_toml(repeatable), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: cannot be written ({error.strerror})") from None
    return run_dir


def open_run_dir(run_dir: Path) -> tuple[Topology, RunConfig]:
    """The topology and settings that a run directory was made with. Raises ConfigError if it is none."""
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"{run_dir}: no run directory (it has no {CONFIG_FILE})")
    return load_topology(run_dir / TOPOLOGY_FILE), settings.load_toml(run_dir / CONFIG_FILE)


def run_fingerprint(topology: Topology, matrix: npt.NDArray[np.float64], config: RunConfig) -> str:
    """A digest of everything that all peers of a run must agree on, names, edges and weights included."""
    shared = settings.options(config)
    for name in settings.PRIVATE | settings.FREE_ON_RESUME:
        del shared[name]
    text = json.dumps([shared, topology.names, np.round(matrix, 12).tolist()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def endpoints_in_file(topology: Topology, config: RunConfig) -> list[str] | None:
    """`tcp://host:port` of each peer where the topology file says them; None where sockets are chosen freely.

    Raises ConfigError for hosts beyond this machine without --insecure.
    """
    nodes = [topology.graph.nodes[peer] for peer in range(topology.n)]
    if config.exchange.transport == "ipc" or not all("host" in node and "port" in node for node in nodes):
        return None
    for name, node in zip(topology.names, nodes, strict=True):
        if not config.exchange.insecure and not _is_loopback(str(node["host"])):
            raise ConfigError(
                f"peer {name}: host {node['host']} is beyond this machine, and messages over tcp are neither "
                "encrypted nor authenticated; add --insecure if the network is your own"
            )
    return [f"tcp://{_bracketed(str(node['host']))}:{int(node['port'])}" for node in nodes]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_complete(run_dir: Path) -> bool:
    with suppress(P2PFLError):
        return read_summary(run_dir).get("status") == "complete"
    return False


def _forget(run_dir: Path) -> None:
    """Take back a run directory in which nothing has happened."""
    shutil.rmtree(run_dir, ignore_errors=True)
