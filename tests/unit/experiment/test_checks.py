"""Checks of a comparison's runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.config import replace_options
from p2pfl.errors import ConfigError
from p2pfl.experiment.checks import state_of
from p2pfl.experiment.plan import Planned
from p2pfl.run.directory import create_run_dir
from p2pfl.run.settings import resolve


def test_a_resumed_comparison_names_a_partition_file_of_another_content(tmp_path: Path) -> None:
    file, run_dir = tmp_path / "split.json", tmp_path / "run"
    file.write_text(json.dumps({str(peer): [peer] for peer in range(4)}))
    ring = make_topology("ring", 4)
    options: dict[str, Any] = {"dataset": "digits", "batch_size": 1, "local_steps": 1, "rounds": 1}
    config = RunConfig.of("ring.graphml", partition=f"file:{file}", **options)
    planned = Planned("run", config, ring, 1)
    resolved = resolve(replace_options(config, run_dir=str(run_dir)), ring, 1)
    create_run_dir(ring, resolved)
    assert state_of(run_dir, planned) == "to be resumed"
    file.write_text(json.dumps({str(peer): [peer + 4] for peer in range(4)}))
    with pytest.raises(ConfigError, match=f"^--partition file:{file}: {run_dir} was made with another content of it;"):
        state_of(run_dir, planned)
    other = Planned("run", replace_options(config, partition="iid"), ring, 1)
    with pytest.raises(ConfigError, match=f"was made with --partition file:{file}, not iid; choose another --run-dir"):
        state_of(run_dir, other)
