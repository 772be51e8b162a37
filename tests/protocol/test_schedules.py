"""Gossip on a schedule of graphs, simulated: averages, faults, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from safetensors.torch import load_file
from tests.support.fault_scripts import fault

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.modes import assign_roles
from p2pfl.registry import ALGORITHMS
from p2pfl.report import load_run, style, summarize, write_report
from p2pfl.report.compare.group import load_entries
from p2pfl.report.curves import draw_distance
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, SCHEDULE_FILE, peer_dirs
from p2pfl.run.records import RoundRecord, read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology, build_schedule, influence_rounds, load_topology, mixing_matrices

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 16,
    "local_steps": 2,
    "rounds": 7,
    "eval_every": 7,
    "eval_samples": 20,
    "threads": 1,
}
FAULTY: dict[str, Any] = {"round_timeout": 2.0, "grace_timeout": 2.0}
BASE_2 = make_topology("base-k", 5), "weights"
ONE_PEER = make_topology("one-peer-exponential", 8), "uniform"
MATCHING = make_topology("random-matching", 5, period=6), "metropolis-hastings"
SCHEDULES = {"base-2": BASE_2, "one-peer": ONE_PEER, "matching": MATCHING}
PUSH_SUM: dict[str, Any] = {"algorithm": "push-sum", "rounds": 9}


def uneven() -> Topology:
    """Directed graphs that are strongly connected only together, with unequal degrees."""
    rounds = [[(0, 1), (1, 2), (3, 4)], [(2, 3), (0, 1), (0, 3)], [(4, 0), (2, 3), (2, 1)], []]
    graphs = [nx.DiGraph(edges) for edges in rounds]
    for graph in graphs:
        graph.add_nodes_from(range(5))
    return build_schedule(graphs, name="uneven", source="uneven")


PUSHED = {"uneven": (uneven(), "column-stochastic"), "one-peer push-sum": (ONE_PEER[0], "column-stochastic")}


def config_of(run_dir: Path, mixing: str, **options: Any) -> RunConfig:
    return RunConfig.of(**{**TINY, **options}, mixing=mixing, run_dir=str(run_dir))


def simulation(run_dir: Path, schedule: tuple[Topology, str], **options: Any) -> Simulation:
    return Simulation(schedule[0], config_of(run_dir, schedule[1], **options))


def finished(run_dir: Path, schedule: tuple[Topology, str], **options: Any) -> Simulation:
    made = simulation(run_dir, schedule, **options)
    made.run()
    return made


def same(a: Simulation, b: Simulation) -> bool:
    one, other = (load_file(run.run_dir / MODEL_FILE) for run in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


def records(run: Simulation, name: str) -> list[RoundRecord]:
    return read_rounds(run.run_dir / "peers" / name)


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_round_averages_by_the_matrix_of_its_graph(tmp_path: Path, name: str) -> None:
    topology, mixing = SCHEDULES[name]
    run = finished(tmp_path / "run", SCHEDULES[name])
    matrices = mixing_matrices(topology, mixing)
    folders = [folder / CHECKPOINTS_FOLDER for folder in peer_dirs(run.run_dir, topology)]
    seen = 0
    for number in range(1, TINY["rounds"] + 1):
        found = [folder / f"round-{number:06d}.safetensors" for folder in folders]
        if not all(path.exists() for path in found):
            continue
        kept, w = [checkpoint.load(path) for path in found], matrices[(number - 1) % len(matrices)]
        sent = [next(iter(one.sent.values()))["x"] if one.sent else one.x for one in kept]
        for peer, one in enumerate(kept):
            expected = sum(w[peer, other] * sent[other].double() for other in range(topology.n))
            assert torch.allclose(one.x.double(), expected, atol=1e-6)
            assert set(one.sent) == {other for other in range(topology.n) if other != peer and w[other, peer] > 0}
        seen += 1
    assert seen == max(2, min(influence_rounds(matrices), len(matrices) + 2, 7))


@pytest.mark.parametrize(("name", "rounds"), [("base-2", 5), ("one-peer", 3)])
def test_the_final_merge_is_exact_in_finite_time(tmp_path: Path, name: str, rounds: int) -> None:
    """Training ends amid a period; the consensus phase begins with the first graph."""
    assert TINY["rounds"] % rounds
    run = finished(tmp_path / "run", SCHEDULES[name])
    found = summarize(run.run_dir)
    assert found["consensus_rounds"] == rounds
    assert found["final_consensus_distance"] < 1e-6 < found["consensus_distance"]
    assert found["spectral_gap"] == 1.0
    assert "which give all peers the exact mean" in run.lines[0]


def test_a_random_schedule_mixes_to_the_tolerance(tmp_path: Path) -> None:
    found = summarize(finished(tmp_path / "run", MATCHING, consensus_tolerance=0.1).run_dir)
    assert found["final_consensus_distance"] <= 0.1 * found["consensus_distance"]
    assert 0 < found["spectral_gap"] < 1


@pytest.mark.usefixtures("unrendered_plots")
def test_the_run_directory_keeps_the_schedule(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", BASE_2)
    kept = load_topology(run.run_dir / SCHEDULE_FILE, by_ids=True)
    assert [sorted(graph.edges.data("weight")) for graph in kept.rounds] == [
        sorted(graph.edges.data("weight")) for graph in BASE_2[0].rounds
    ]
    assert f'topology = "{SCHEDULE_FILE}"' in (run.run_dir / "config.toml").read_text()
    write_report(run.run_dir)
    with style.styled():
        lines = draw_distance(load_run(run.run_dir)).axes[1].lines
    assert [line.get_label() for line in lines] == ["bound for the schedule", "measured"]
    above, below = (dict(zip(*line.get_data(), strict=True)) for line in lines)
    assert all(below[number] <= above.get(number, 1e-6) * 1.05 for number in below)
    matched = [finished(tmp_path / "other", (make_topology("base-k", 5, degree=2), "weights")).run_dir, run.run_dir]
    assert [len(entry.runs) for entry in load_entries(matched)] == [1, 1], "not two seeds of one"


OTHER_WAYS: dict[str, Any] = {"order": "overlapped", "wire_dtype": "bf16"}


@pytest.mark.parametrize(
    ("name", "options", "slow"),
    [
        ("base-2", {}, 3),
        ("one-peer", OTHER_WAYS, 0),
        ("matching", {}, 0),
        ("uneven", PUSH_SUM, 4),
        ("uneven", {**PUSH_SUM, **OTHER_WAYS}, 0),
    ],
)
def test_a_run_that_is_stopped_with_peers_far_apart_resumes_to_the_same_bits(
    tmp_path: Path, name: str, options: dict[str, Any], slow: int
) -> None:
    """One peer is paused until all others wait for it; then all are stopped."""
    schedule = {**SCHEDULES, **PUSHED}[name]
    whole = finished(tmp_path / "whole", schedule, **options)
    stopped = simulation(tmp_path / "stopped", schedule, **options)
    while stopped.clock.now() < 2.5:
        assert stopped.step()
    stopped.workers[slow].pause()
    while stopped.clock.now() < 12.0:
        assert stopped.step()
    stopped.close()
    done = [folder[-1].round for folder in map(read_rounds, peer_dirs(stopped.run_dir, schedule[0]))]
    assert max(done) > done[slow] + 1, "further apart than on one graph"
    config = config_of(stopped.run_dir, schedule[1], **options)
    resumed = Simulation(schedule[0], config, resume=stopped.run_dir)
    resumed.run()
    assert same(whole, resumed)
    assert [record.absent for folder in resumed.run_dir.glob("peers/*") for record in read_rounds(folder)] == [
        None for folder in whole.run_dir.glob("peers/*") for record in read_rounds(folder)
    ]


def test_vectors_that_died_with_their_receiver_are_in_older_checkpoints(tmp_path: Path) -> None:
    """Peer a has b's vector of round 5, but not c's, when all are stopped.

    By then b has done three rounds more.
    """
    graphs = [nx.Graph([("a", "b"), ("a", "c")]), *(nx.Graph([("b", "d")]) for _ in range(3))]
    for graph in graphs:
        graph.add_nodes_from("abcd")
    schedule = build_schedule(graphs, name="uneven", source="uneven"), "metropolis-hastings"
    script = fault(kind="delay", edge=["a", "c"], rounds=[5, 5], seconds=30.0)
    (tmp_path / "faults.toml").write_text(script)
    options = {"faults": str(tmp_path / "faults.toml"), "rounds": 10}
    whole = finished(tmp_path / "whole", schedule, **options)
    stopped = simulation(tmp_path / "stopped", schedule, **options)
    while stopped.clock.now() < 15.0:
        assert stopped.step()
    stopped.close()
    assert [records(stopped, name)[-1].round for name in "ab"] == [4, 8]
    resumed = Simulation(schedule[0], config_of(stopped.run_dir, schedule[1], **options), resume=stopped.run_dir)
    resumed.run()
    assert same(whole, resumed)
    assert not any(record.absent for name in "abcd" for record in records(resumed, name))


def play(folder: Path, script: str, schedule: tuple[Topology, str], **options: Any) -> Simulation:
    """A simulation of a script to its end."""
    folder.mkdir()
    (folder / "faults.toml").write_text(script)
    return finished(folder / "run", schedule, faults=str(folder / "faults.toml"), **{**FAULTY, **options})


def twice(folder: Path, script: str, schedule: tuple[Topology, str], **options: Any) -> Simulation:
    """The second of two simulations of a script, which have the same records and bits."""
    one, two = (play(folder / name, script, schedule, **options) for name in ("one", "two"))
    for name in schedule[0].names:
        assert records(one, name) == records(two, name)
    assert same(one, two)
    return two


@pytest.mark.parametrize(("name", "at"), [("base-2", "checkpoint"), ("one-peer", "train"), ("matching", "train")])
def test_a_killed_peer_is_missing_in_the_rounds_of_its_edges_until_it_is_back(
    tmp_path: Path, name: str, at: str
) -> None:
    topology, mixing = SCHEDULES[name]
    run = twice(tmp_path, fault(kind="kill", peer="3", round=3, restart=6, at=at), SCHEDULES[name])
    matrices = mixing_matrices(topology, mixing)
    away = range(3 if at == "train" else 4, 6)
    for peer in range(topology.n):
        if peer != 3:
            without = [record.round for record in records(run, str(peer)) if record.absent]
            assert without == [r for r in away if matrices[(r - 1) % len(matrices)][peer, 3] > 0]
    assert [r.round for r in records(run, "3") if r.phase == "train"] == [1, 2, 6, 7]
    assert run.outcome.lost == []


def test_a_peer_without_a_checkpoint_takes_weights_where_it_has_neighbors(tmp_path: Path) -> None:
    """Peer 4 of five has no neighbor in rounds 6 and 7, but one in round 8."""
    matrices = mixing_matrices(*BASE_2)
    alone = [r for r in range(1, 6) if not any(matrices[r - 1][4, other] for other in range(4))]
    assert alone == [1, 2, 4, 5]
    script = fault(kind="kill", peer="4", round=3, restart=6)
    run = twice(tmp_path, script, BASE_2, checkpoint=False, rounds=9)
    taken = {record.round: record.weights_from for record in records(run, "4") if record.weights_from}
    assert list(taken) == [8]
    assert [record.round for record in records(run, "4")][:4] == [1, 2, 8, 9]


def weight_of(run_dir: Path, topology: Topology, round: int) -> float:
    """Σ w of push-sum after a training round, with what peers owe."""
    found = 0.0
    for folder in peer_dirs(run_dir, topology):
        state = checkpoint.load(folder / CHECKPOINTS_FOLDER / f"round-{round:06d}.safetensors").algorithm
        held = [name for name in state if name == "weight" or name.startswith("owed_weight.")]
        found += sum(float(state[name]) for name in held)
    return found


@pytest.mark.parametrize("name", PUSHED)
@pytest.mark.parametrize("kind", ["kill", "pause"])
def test_push_sum_keeps_its_mass_on_a_schedule(tmp_path: Path, name: str, kind: str) -> None:
    """Peer 3 is away for three rounds, in which its neighbors have other edges."""
    times = {"restart": 6} if kind == "kill" else {"resume": 6}
    schedule = PUSHED[name]
    run = twice(tmp_path, fault(kind=kind, peer="3", round=3, **times), schedule, algorithm="push-sum", rounds=12)
    assert weight_of(run.run_dir, schedule[0], 12) == pytest.approx(schedule[0].n, abs=1e-9)
    assert any(record.absent for peer in schedule[0].names for record in records(run, peer))
    found, is_exact = summarize(run.run_dir), schedule is PUSHED["one-peer push-sum"]
    assert found["final_merge"] == ("exact" if is_exact else "push-sum")
    assert found["final_consensus_distance"] <= (1e-6 if is_exact else 1e-3 * found["consensus_distance"])


def test_a_paused_peer_a_partition_and_an_attack(tmp_path: Path) -> None:
    script = (
        fault(kind="pause", peer="3", round=3, resume=6)
        + fault(kind="partition", rounds=[2, 3], parts=[["0", "1"], ["2", "4"]])
        + fault(kind="attack", peer="2", rounds=[5, 7], attack="sign-flip")
    )
    assert not same(twice(tmp_path, script, MATCHING), finished(tmp_path / "whole", MATCHING))


def test_a_run_continues_after_the_loss_of_a_peer(tmp_path: Path) -> None:
    run = play(tmp_path / "run", fault(kind="kill", peer="3", round=3), BASE_2, min_peers=4)
    assert run.outcome.lost == ["3"]
    assert records(run, "0")[-1].round == TINY["rounds"] + 5


def test_a_robust_rule_on_random_graphs(tmp_path: Path) -> None:
    schedule = make_topology("random-regular", 6, degree=3, period=4), "metropolis-hastings"
    script = fault(kind="attack", peer="2", rounds=[2, 7], attack="sign-flip")
    run = play(tmp_path / "run", script, schedule, algorithm="clipped", byzantine=1)
    assert summarize(run.run_dir)["status"] == "complete"


def test_a_robust_rule_needs_enough_neighbors_in_every_round() -> None:
    with pytest.raises(ConfigError, match=r"--byzantine 1: peer \d has 0 neighbors"):
        assign_roles(RunConfig.of(algorithm="median", byzantine=1), MATCHING[0])


FIXED = [name for name, entry in ALGORITHMS.items() if entry.fixed_mixing]


@pytest.mark.parametrize("algorithm", FIXED)
def test_algorithms_for_one_mixing_matrix_refuse_a_schedule(algorithm: str) -> None:
    with pytest.raises(
        TopologyError, match=f"a schedule of 6 graphs, and --algorithm {algorithm} needs the same mixing"
    ):
        assign_roles(RunConfig.of(algorithm=algorithm), MATCHING[0])


@pytest.mark.parametrize("algorithm", [a for a, e in ALGORITHMS.items() if e.kept_vectors and not e.fixed_mixing])
def test_all_other_algorithms_resume_on_a_schedule(tmp_path: Path, algorithm: str) -> None:
    whole = finished(tmp_path / "whole", BASE_2, algorithm=algorithm)
    stopped = simulation(tmp_path / "stopped", BASE_2, algorithm=algorithm)
    while stopped.clock.now() < 4.0:
        assert stopped.step()
    stopped.close()
    resumed = Simulation(BASE_2[0], config_of(stopped.run_dir, "weights", algorithm=algorithm), resume=stopped.run_dir)
    resumed.run()
    assert same(whole, resumed)
