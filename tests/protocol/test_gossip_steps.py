"""Several exchanges after each local training: averages, stops, faults, records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.fault_scripts import fault
from tests.support.gossip_scenario import Gossip, Setting
from tests.support.helpers import matrix

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.experiment.resume import prolong
from p2pfl.report import load_run
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, checkpoint_name, peer_dirs
from p2pfl.run.records import RoundRecord, read_rounds
from p2pfl.sim.interleaving import Interleaving
from p2pfl.sim.link import LinkSpeed
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 16,
    "local_steps": 2,
    "rounds": 3,
    "eval_every": 3,
    "eval_samples": 20,
    "threads": 1,
    "gossip_steps": 3,
}
RING = make_topology("ring", 4)
SLOW = LinkSpeed(latency=0.1)


def simulation(run_dir: Path, topology: Topology = RING, speed: LinkSpeed | None = None, **options: Any) -> Simulation:
    return Simulation(topology, RunConfig.of(**{**TINY, **options}, run_dir=str(run_dir)), speed=speed)


def finished(run_dir: Path, topology: Topology = RING, speed: LinkSpeed | None = None, **options: Any) -> Simulation:
    made = simulation(run_dir, topology, speed, **options)
    made.run()
    return made


def records(run: Simulation, name: str = "0") -> list[RoundRecord]:
    return read_rounds(run.run_dir / "peers" / name)


def trained(run: Simulation, name: str) -> list[int]:
    return [record.round for record in records(run, name) if record.phase == "train"]


def vectors(run: Simulation, topology: Topology, round: int) -> torch.Tensor:
    """All peers' weights after a round, (n, size)."""
    folders = [folder / CHECKPOINTS_FOLDER for folder in peer_dirs(run.run_dir, topology)]
    return torch.stack([checkpoint.load(folder / checkpoint_name(round)).x for folder in folders])


def same(a: Simulation, b: Simulation) -> bool:
    return (a.run_dir / MODEL_FILE).read_bytes() == (b.run_dir / MODEL_FILE).read_bytes()


def test_peers_train_once_and_then_mix_several_times() -> None:
    """x ← W³ (x − η (x − b)) against dense matrices; training moves towards a minimum."""
    w, steps = matrix("ring", 4), 3
    setting = Setting(w, DPSGD(), Chebyshev(1 / 3), training_rounds=2 * steps, consensus_rounds=1, gossip_steps=steps)
    peers = Gossip(setting)
    x = np.stack([vector.numpy().astype(np.float64) for vector in setting.initial()])
    run = Interleaving(peers)
    run.take_turns()
    peers.check_finished(run)
    towards = 0.1 * np.cos(np.arange(setting.size)) * np.arange(1, 5)[:, None]
    for exchange in range(1, 2 * steps + 1):
        if exchange in (1, 1 + steps):
            for _ in range(2):
                x = 0.9 * x + towards / exchange
        x = w @ x
        found = np.stack([peers.snapshots[peer, exchange].x.numpy() for peer in range(4)])
        np.testing.assert_allclose(found, x, atol=1e-6)


EXACT = {
    "base-2": (make_topology("base-k", 3), "weights", len(make_topology("base-k", 3).rounds)),
    "one peer": (make_topology("one-peer-exponential", 4), "uniform", 2),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_period_of_an_exact_schedule_makes_all_peers_equal_after_each_training(tmp_path: Path, name: str) -> None:
    """As on a complete graph, with one exchange."""
    topology, mixing, steps = EXACT[name]
    run = finished(tmp_path / "schedule", topology, mixing=mixing, gossip_steps=steps, rounds=2)
    complete = make_topology("complete", topology.n)
    pooled = finished(tmp_path / "complete", complete, gossip_steps=1, rounds=2)
    for round in (1, 2):
        found, expected = vectors(run, topology, round), vectors(pooled, complete, round)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found, found.mean(0).expand_as(found), rtol=1e-5, atol=1e-7)
    graphs = [set(graph.edges) for graph in topology.rounds]
    assert [set(graph.edges) for graph in load_run(run.run_dir).graphs_of(2)] == graphs
    assert [set(graph.edges) for graph in load_run(run.run_dir).graphs_of(3)] == graphs[:1], "of the consensus phase"


def test_rounds_steps_and_learning_rates_are_those_of_the_trainings_and_bytes_of_the_exchanges(tmp_path: Path) -> None:
    once, thrice = (finished(tmp_path / str(steps), gossip_steps=steps) for steps in (1, 3))
    for one, three in zip(records(once), records(thrice), strict=True):
        assert (one.round, one.phase, one.steps, one.lr) == (three.round, three.phase, three.steps, three.lr)
        assert (one.test_accuracy is None) == (three.test_accuracy is None)
        times = 3 if one.phase == "train" else 1
        assert three.bytes_sent == pytest.approx(times * one.bytes_sent, rel=0.05)
    assert not same(once, thrice)


def test_the_file_of_a_run_with_one_exchange_says_nothing_of_others(tmp_path: Path) -> None:
    folder = peer_dirs(finished(tmp_path / "run", gossip_steps=1).run_dir, RING)[0] / CHECKPOINTS_FOLDER
    assert checkpoint.load(folder / checkpoint_name(3)).earlier == ()


# Stops of the whole run


def between_two_exchanges(run: Simulation) -> None:
    while run.clock.now() < 2.0 and run.step():
        pass
    assert [len(records(run, name)) for name in RING.names] == [1] * 4


def as_soon_as_one_has_saved(run: Simulation) -> None:
    while not list(run.run_dir.glob(f"peers/*/{CHECKPOINTS_FOLDER}/{checkpoint_name(2)}")):
        assert run.step()


WAYS: dict[str, tuple[Callable[[Simulation], None], dict[str, Any]]] = {
    "plain": (between_two_exchanges, {}),
    "bf16": (as_soon_as_one_has_saved, {"wire_dtype": "bf16"}),
    "momentum": (between_two_exchanges, {"average_momentum": True}),
    "robust": (between_two_exchanges, {"algorithm": "clipped", "byzantine": 1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, way: str) -> None:
    stop, options = WAYS[way]
    whole = finished(tmp_path / "whole", speed=SLOW, checkpoint=False, **options)
    stopped = simulation(tmp_path / "stopped", speed=SLOW, **options)
    stop(stopped)
    stopped.close()
    config = RunConfig.of(**TINY, **options, run_dir=str(stopped.run_dir))
    Simulation(RING, config, resume=stopped.run_dir).run()
    assert same(whole, stopped)


def test_neighbors_that_are_exchanges_apart_resume_to_the_same_bits(tmp_path: Path) -> None:
    """The one that is ahead sends again what all exchanges of its last round had sent."""
    topology, options = make_topology("ring", 6), {**TINY, "gossip_steps": 2}
    whole = finished(tmp_path / "whole", topology, speed=SLOW, **options)
    stopped = simulation(tmp_path / "stopped", topology, speed=SLOW, **options)
    while len(records(stopped, "0")) < 1:
        stopped.step()
    stopped.workers[0].pause()
    while len(records(stopped, "3")) < 2:
        stopped.step()
    stopped.close()
    assert [len(records(stopped, name)) for name in "0123"] == [1, 1, 1, 2]
    config = RunConfig.of(**options, run_dir=str(stopped.run_dir))
    resumed = Simulation(topology, config, resume=stopped.run_dir)
    resumed.run()
    assert same(whole, resumed)
    assert not any("straight" in line for line in resumed.lines)


def test_more_rounds_end_with_the_bits_of_as_many_from_the_start(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", schedule="constant")
    short = finished(tmp_path / "short", schedule="constant", rounds=2)
    config = RunConfig.of(**{**TINY, "schedule": "constant"}, run_dir=str(short.run_dir))
    prolong(short.run_dir, config)
    Simulation(RING, config, resume=short.run_dir).run()
    assert same(whole, short)


# Faults

FAULTY: dict[str, Any] = {"rounds": 5, "round_timeout": 2.0, "grace_timeout": 2.0}


@pytest.mark.parametrize("restart", [0, 1])
def test_a_peer_that_dies_between_two_exchanges_is_lost_or_comes_back(tmp_path: Path, restart: int) -> None:
    options = {**FAULTY, "gossip_steps": 6}
    run = simulation(tmp_path / "run", speed=SLOW, **options, min_peers=3, restart=restart)
    while len(records(run, "3")) < 1:
        run.step()
    moment = run.clock.now() + 1.5  # a training takes a second, and each exchange a tenth at least
    while run.clock.now() < moment:
        run.step()
    assert len(records(run, "3")) == 1
    run.workers[3].kill()
    run.run()
    assert all(trained(run, name) == [1, 2, 3, 4, 5] for name in "012")
    assert run.outcome.lost == ([] if restart else ["3"])
    assert trained(run, "3") == ([1, 2, 3, 4, 5] if restart else [1])
    assert records(run, "3")[-1].steps == (records(run, "0")[-1].steps if restart else 2), "no training is left out"
    assert any("3" in (record.absent or ()) for record in records(run, "2")) or restart
    assert bool(vectors(run, make_topology("ring", 3), 5).isfinite().all())


@pytest.mark.parametrize("at", ["exchange", "evaluate"])
@pytest.mark.parametrize(("kind", "back"), [("kill", "restart"), ("pause", "resume")])
def test_fault_scripts_count_rounds_of_training(tmp_path: Path, kind: str, back: str, at: str) -> None:
    (tmp_path / "faults.toml").write_text(fault(kind=kind, peer="3", round=2, at=at, **{back: 4}))
    run = finished(tmp_path / "run", **FAULTY, faults=str(tmp_path / "faults.toml"))
    first = 2 if at == "exchange" else 3
    missed = [record.round for record in records(run, "2") if "3" in (record.absent or ())]
    assert missed == list(range(first, 4))
    assert trained(run, "3") == ([1, 4, 5] if kind == "kill" else [1, 2, 4, 5])
    assert trained(run, "0") == [1, 2, 3, 4, 5]


def test_a_peer_that_is_back_soon_takes_nobody_along_to_the_round_of_its_return(tmp_path: Path) -> None:
    """It greets in the grace period, and the round is further ahead than n peers."""
    script = fault(kind="kill", peer="2", round=2, restart=8)
    (tmp_path / "faults.toml").write_text(script)
    path = make_topology("chain", 3)
    options = {**FAULTY, "rounds": 9, "gossip_steps": 1}
    run = finished(tmp_path / "run", path, **options, faults=str(tmp_path / "faults.toml"))
    assert trained(run, "0") == trained(run, "1") == list(range(1, 10))
    assert trained(run, "2") == [1, 8, 9]


def test_a_partition_lasts_for_all_exchanges_of_its_rounds(tmp_path: Path) -> None:
    script = fault(kind="partition", rounds=[2, 2], parts=[["0", "1", "2"], ["3"]])
    (tmp_path / "faults.toml").write_text(script)
    run = finished(tmp_path / "run", **FAULTY, faults=str(tmp_path / "faults.toml"))
    sent = [record.sent_to.get("3", 0) for record in records(run, "2")]
    assert sent[1] < 2000 < min(sent[0], *sent[2:5])
