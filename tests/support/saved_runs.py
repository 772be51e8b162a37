"""Run directories with a few saved rounds, and damages of their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import safetensors.torch
import torch
from tests.support.runs import train_record

from p2pfl import RunConfig, make_topology
from p2pfl.modes import assign_roles, topology_of
from p2pfl.node import messages
from p2pfl.node.resume import SavedState, find_resume_point
from p2pfl.run import checkpoint
from p2pfl.run.checkpoint import Checkpoint
from p2pfl.run.directory import create_run_dir
from p2pfl.run.paths import checkpoint_name
from p2pfl.run.records import append_round, encode_record
from p2pfl.topology import Topology

LAST = 9


@dataclass
class Made:
    """Run directory with checkpoints of rounds 4 and 5 and a record of each round."""

    folder: Path
    config: RunConfig
    topology: Topology

    def peer_dir(self, index: int) -> Path:
        return self.folder / "peers" / self.topology.node_path(index)

    def path(self, index: int, round: int) -> Path:
        return self.peer_dir(index) / "checkpoint" / checkpoint_name(round)

    def spec(self, index: int, **options: Any) -> messages.WorkerSpec:
        fields: dict[str, Any] = {"run_dir": self.folder, "resume": True, **options}
        return messages.WorkerSpec(
            config=self.config, dataset=Path(), index=index, run="run", settings="settings", bind="", **fields
        )

    def find_resume_point(self, index: int, **options: Any) -> tuple[SavedState, list[str]]:
        said: list[str] = []

        def report(message: messages.FromWorker) -> None:
            assert isinstance(message, messages.Warned)
            said.append(message.text)

        trainer: Any = SimpleNamespace(layout=SimpleNamespace(digest="layout"), restore=lambda *state: None)
        parts = assign_roles(self.config, self.topology)
        return find_resume_point(self.spec(index, **options), parts, trainer, self.peer_dir(index), LAST, report), said


def made(folder: Path, mode: Any = "gossip", alone: str | None = None) -> Made:
    sizes = {"num_clients": 3, "num_selected": 2} if mode == "centralized" else {}
    config = RunConfig.of(mode=mode, run_dir=str(folder), rounds=LAST, dataset="digits", **sizes)
    topology = topology_of(config) or make_topology("ring", 3)
    run = Made(create_run_dir(topology, config, alone), config, topology)
    for index in range(topology.n):
        if alone in (None, topology.names[index]):
            fill(run, index)
    return run


def fill(run: Made, index: int) -> None:
    past = find_resume_point(
        replace(run.spec(index), resume=False),
        assign_roles(run.config, run.topology),
        None,
        run.peer_dir(index),
        0,
        print,  # type: ignore[arg-type]
    )
    drawn = {"selected": ["0", "1"], "missing": []} if run.topology.names[index] == "coordinator" else {}
    for number in range(1, 6):
        record = msgspec.structs.replace(train_record(run.topology, index, number, LAST, 100), **drawn)
        append_round(run.peer_dir(index), record, None)
        text = encode_record(record).decode()
        if number > 3:
            kept = Checkpoint(number, number, "layout", "settings", torch.full((3,), float(number)), torch.zeros(3))
            kept = replace(kept, origin=past.origin, record=text, recorded=number)
            checkpoint.save(run.peer_dir(index) / "checkpoint", kept)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_version(path: Path) -> None:
    about = {"p2pfl": '{"digest": "0", "format": 2, "round": 5}'}
    safetensors.torch.save_file({"x": torch.ones(2)}, path, metadata=about)
