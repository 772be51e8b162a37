"""Stopped and resumed swarms end with the same bits, for the whole registry.

Every synchronous algorithm in each of its ways, and every attack, in the simulator.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.helpers import ring_with_chord

from p2pfl import RunConfig, make_topology
from p2pfl.modes import topology_of
from p2pfl.registry import ALGORITHMS, ATTACKS, AVERAGINGS, COMPRESSIONS, entry_of
from p2pfl.run.paths import MODEL_FILE
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

PEERS, ROUNDS = 3, 4
PLAIN = {
    "dataset": "digits",
    "model": "user_models:linear",
    "rounds": ROUNDS,
    "batch_size": 16,
    "local_steps": 2,
    "lr": 0.02,
    "threads": 1,
    "eval_samples": 16,
    "eval_every": ROUNDS,
}
SYNCHRONOUS = [name for name, entry in ALGORITHMS.items() if entry.synchronous]
WAYS = [(order, wire) for order in ("atc", "overlapped") for wire in ("fp32", "bf16")]
CASES = [
    # An attack knows nothing of its peer's algorithm, but whether others' vectors reach it in parts.
    *((algorithm, *WAYS[0], attack) for algorithm in ("dpsgd", "median") for attack in ("", *ATTACKS)),
    *(
        (algorithm, order, wire, "inner-product")
        for algorithm in SYNCHRONOUS
        for order, wire in WAYS
        if (algorithm, (order, wire)) not in (("dpsgd", WAYS[0]), ("median", WAYS[0]))
        and order in ALGORITHMS[algorithm].orders
        and wire in ALGORITHMS[algorithm].wire_dtypes
    ),
    *(("toy_algorithm:HeavyBall", *WAYS[0], attack) for attack in ("", "inner-product")),
]


def script(folder: Path, attack: str, attacker: str) -> dict[str, object]:
    if not attack:
        return {}
    path = folder / "faults.toml"
    path.write_text(f'[[fault]]\nkind = "attack"\npeer = "{attacker}"\nattack = "{attack}"\nrounds = [2, {ROUNDS}]\n')
    return {"faults": str(path)}


def stop(simulation: Simulation, at: int) -> None:
    """Halt a swarm for good as soon as any process has saved round `at`.

    Others may be a round behind.
    """
    checkpoints = f"peers/*/checkpoint/round-{at:06d}.safetensors"
    while not list(simulation.run_dir.glob(checkpoints)):
        assert simulation.step()
    simulation.close()


def check(topology: Topology, options: dict[str, object], folder: Path) -> None:
    """A run that is stopped during an attack ends with the model of one that is not."""
    whole = Simulation(topology, RunConfig.of(**options, run_dir=str(folder / "whole"), checkpoint=False))
    whole.run()
    config = RunConfig.of(**options, run_dir=str(folder / "stopped"))
    simulation = Simulation(topology, config)
    stop(simulation, 3)
    Simulation(topology, config, resume=simulation.run_dir).run()
    assert (simulation.run_dir / MODEL_FILE).read_bytes() == (whole.run_dir / MODEL_FILE).read_bytes()


@pytest.mark.parametrize("averaging", AVERAGINGS)
@pytest.mark.parametrize("attack", ["", "inner-product"])
def test_centralized(tmp_path: Path, averaging: str, attack: str) -> None:
    robust = {"byzantine": 1} if AVERAGINGS[averaging].tolerates_byzantine else {}
    clients = {"num_clients": 5, "num_selected": 5, "averaging": averaging, "server_momentum": 0.5}
    options = {**PLAIN, "mode": "centralized", **clients, **robust, **script(tmp_path, attack, "1")}
    topology = topology_of(RunConfig.of(**options))
    assert topology is not None
    check(topology, options, tmp_path)


@pytest.mark.parametrize(("algorithm", "order", "wire", "attack"), CASES)
def test_gossip(tmp_path: Path, algorithm: str, order: str, wire: str, attack: str) -> None:
    entry = entry_of("algorithm", algorithm)
    robust = {"byzantine": 1} if entry is not None and entry.tolerates_byzantine else {}
    options = {"algorithm": algorithm, "order": order, "wire_dtype": wire, **robust, **script(tmp_path, attack, "1")}
    check(make_topology("complete", PEERS), {**PLAIN, **options}, tmp_path)


@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw", "lr": 0.002}, {"average_momentum": True}], ids=str)
def test_every_state_of_an_optimizer(tmp_path: Path, optimizer: dict[str, object]) -> None:
    check(make_topology("complete", PEERS), {**PLAIN, "wire_dtype": "bf16", **optimizer}, tmp_path)


def test_clients_with_adamw(tmp_path: Path) -> None:
    """Their moments are local; the coordinator has none."""
    clients = {"mode": "centralized", "num_clients": 3, "num_selected": 2, "server_momentum": 0.5}
    options = {**PLAIN, **clients, "optimizer": "adamw", "lr": 0.002}
    topology = topology_of(RunConfig.of(**options))
    assert topology is not None
    check(topology, options, tmp_path)


NORMS: list[dict[str, object]] = [
    {"model": "vgg11", "width": 0.0625, "norm": "group", "local_steps": 1},
    {"model": "user_models:mixed_net", "batch_norm_statistics": "local", "order": "overlapped"},
    {"model": "user_models:mixed_net", "batch_norm_statistics": "reestimated", "wire_dtype": "bf16"},
]


@pytest.mark.parametrize("options", NORMS, ids=["group", "local", "reestimated"])
def test_norms_and_their_statistics(tmp_path: Path, options: dict[str, object]) -> None:
    check(make_topology("complete", PEERS), {**PLAIN, **options}, tmp_path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression(tmp_path: Path, compression: str) -> None:
    named = compression + (":0.05" if COMPRESSIONS[compression].argument else "")
    options = {"algorithm": "choco", "compression": named}
    check(make_topology("complete", PEERS), {**PLAIN, **options}, tmp_path)


@pytest.mark.parametrize(("order", "wire"), [WAYS[0], WAYS[3]])
def test_push_sum_on_a_directed_graph(tmp_path: Path, order: str, wire: str) -> None:
    """Peers have unequal weights."""
    options = {"algorithm": "push-sum", "mixing": "column-stochastic", "order": order, "wire_dtype": wire}
    check(ring_with_chord(4), {**PLAIN, **options}, tmp_path)
