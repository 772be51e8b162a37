"""Formula of a swarm's bytes and messages, against a simulated swarm of 64 peers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import user_models

from p2pfl import RunConfig, make_topology
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles
from p2pfl.preflight.scale import swarm_cost
from p2pfl.protocol import wire
from p2pfl.run.paths import peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.network import VirtualTransport
from p2pfl.sim.swarm import Simulation

TORUS = make_topology("torus", 64)
ROUNDS = 2


def test_bytes_and_messages_of_64_peers_are_those_of_the_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[int] = Counter()  # messages of an exchange by round, and their bytes
    sizes: Counter[int] = Counter()
    send = VirtualTransport.send

    def counted(transport: VirtualTransport, neighbor: int, message: wire.Message) -> int:
        size = send(transport, neighbor, message)
        if message.header.kind in ("grant", "chunk", "ack"):
            counts[message.header.round] += 1
            sizes[message.header.round] += size
        return size

    monkeypatch.setattr(VirtualTransport, "send", counted)
    tiny = {"dataset": "digits", "model": "user_models:linear", "batch_size": 4, "local_steps": 1, "rounds": ROUNDS}
    quick = {"eval_every": ROUNDS, "eval_samples": 10, "threads": 1, "checkpoint": False, "final_merge": "none"}
    config = RunConfig.of(**tiny, **quick, run_dir=str(tmp_path / "run"))
    swarm = Simulation(TORUS, config)
    swarm.run()
    cost = swarm_cost(assign_roles(config, TORUS), config, Layout.of(user_models.linear(10)))
    assert (cost.peers, cost.neighbors, cost.connections) == (64, 4, 8)
    assert counts == dict.fromkeys(range(1, ROUNDS + 1), cost.messages_in_all) == {1: 768, 2: 768}
    assert sizes == dict.fromkeys(range(1, ROUNDS + 1), cost.bytes_in_all), "to the byte"
    recorded = sum(record.bytes_sent for folder in peer_dirs(swarm.run_dir, TORUS) for record in read_rounds(folder))
    more = recorded / (ROUNDS * cost.bytes_in_all) - 1
    assert 0 <= more < 0.02, "besides: greetings, heartbeats and goodbyes"
