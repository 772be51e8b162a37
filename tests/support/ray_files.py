"""Launches whose workers are on nodes that do not share the run directory."""

from __future__ import annotations

from pathlib import Path

from tests.support.helpers import small_config

from p2pfl import RunConfig, make_topology
from p2pfl.launch import LaunchSpec
from p2pfl.launch.ray_files import PrivateFolder, Supply
from p2pfl.modes import assign_roles
from p2pfl.node.messages import WorkerSpec
from p2pfl.run.directory import create_run_dir

RING = make_topology("ring", 3)


def launched(tmp_path: Path, **options: object) -> LaunchSpec:
    config = small_config(run_dir=str(tmp_path / "run"), **options)
    return LaunchSpec(assign_roles(config, RING), config, create_run_dir(RING, config), "run", "settings")


def worker(config: RunConfig, run_dir: Path, index: int = 1) -> WorkerSpec:
    return WorkerSpec(config, run_dir, Path("/no/data"), index, "run", "settings", "tcp://*:*")


def filled(folder: PrivateFolder, spec: LaunchSpec, index: int = 1) -> WorkerSpec:
    """Specification of a worker that has got the launcher's files."""
    files = Supply(spec, index)
    while (number := folder.wanted(-1, 0.0)) is not None:
        folder.put(number, files.batch(number))
    return folder.wait(worker(spec.config, spec.run_dir, index))
