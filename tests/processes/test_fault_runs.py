"""Fault scripts in real runs: peers killed, frozen, cut off and hostile.

A script is played once by real processes and once by the simulator, to the same bits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.paths import ROOT
from tests.support.real_run import Run
from tests.support.same_bits import check_simulated
from tests.support.swarms import LIVELY, memory_swarm, saved_vectors, thread_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.faults import check_faults, load_faults
from p2pfl.modes import topology_of
from p2pfl.report import summarize
from p2pfl.run.records import read_rounds
from p2pfl.topology import Topology, save_topology
from p2pfl.transport import ZmqTransport

NAMES = [str(peer) for peer in range(6)]
KILL = 'kind = "kill"\npeer = "3"\nround = 4\n'


def written(folder: Path, *faults: str, head: str = "") -> Path:
    path = folder / "faults.toml"
    path.write_text(head + "".join(f"[[fault]]\n{fault}\n" for fault in faults))
    return path


def test_the_shipped_example_fits_the_shipped_ring() -> None:
    path = ROOT / "configs" / "faults-ring-8.toml"
    script = check_faults(load_faults(path, 1), str(path), [str(p) for p in range(8)], 40, None, False)
    assert script.seed == 7
    assert script.returns_of(3) == {15}
    assert [script.is_absent(3, round) for round in (9, 10, 11, 14, 15)] == [False, False, True, True, False]
    assert script.barrier_rounds([3]) == {9}
    assert script.cuts(19) == script.cuts(23) == frozenset()
    assert {(a, b) for a, b in script.cuts(20) if b == a + 1 or (a, b) == (0, 7)} == {(3, 4), (0, 7)}


def run_dir_of(folder: Path, name: str, path: Path, **options: Any) -> RunConfig:
    return RunConfig.of(**{**LIVELY, **options}, faults=str(path), run_dir=str(folder / name))


PATIENT: dict[str, Any] = {
    "model": "user_models:feature_norm",
    "rounds": 3,
    "round_timeout": 6.0,
    "first_round_timeout": 6.0,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on whole links."""
    run_dir = tmp_path_factory.mktemp("memory") / "plain"
    return memory_swarm(make_topology("ring", 3), RunConfig.of(**{**LIVELY, **PATIENT}, run_dir=str(run_dir)))


@pytest.mark.parametrize("kind", ["drop", "corrupt", "delay"])
def test_a_bad_link_changes_no_bit_of_the_result(tmp_path: Path, plain: Path, kind: str) -> None:
    topology = make_topology("ring", 3)
    harm = "seconds = 0.05" if kind == "delay" else "probability = 0.2"
    path = written(tmp_path, f'kind = "{kind}"\nedge = ["0", "1"]\nrounds = [1, 3]\n{harm}')
    harmed = thread_swarm(
        topology,
        run_dir_of(tmp_path, "harmed", path, **PATIENT),
        binds=[f"ipc://{tmp_path}/{peer}" for peer in range(3)],
        endpoints=[f"ipc://{tmp_path}/{peer}" for peer in range(3)],
        make_transport=ZmqTransport,
    )
    assert torch.equal(saved_vectors(harmed, topology, 3), saved_vectors(plain, topology, 3))
    if kind == "corrupt":
        records = [record for peer in "01" for record in read_rounds(harmed / "peers" / peer)]
        assert any((record.refused or {}).get("version") for record in records)


def test_parts_learn_by_themselves_as_long_as_they_are_apart(tmp_path: Path) -> None:
    topology = make_topology("complete", 4)
    path = written(tmp_path, 'kind = "partition"\nrounds = [1, 2]\nparts = [["0", "1"], ["2", "3"]]')
    config = run_dir_of(tmp_path, "apart", path, rounds=3, model="user_models:feature_norm")
    found = memory_swarm(topology, config)
    apart, together = saved_vectors(found, topology, 2), saved_vectors(found, topology, 3)
    assert not torch.allclose(apart[0], apart[2], atol=1e-4)
    assert torch.allclose(together[0], together[3], atol=1e-6), "a full mesh gives everybody the same"
    assert summarize(found)["components"] == [{"rounds": [1, 2], "components": [["0", "1"], ["2", "3"]]}]


# Real processes

FAST = shlex.split(
    "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --local-steps 5 --rounds 14 --threads 1"
    " --grace-timeout 2 --eval-every 7"
)
SIMULATED: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 8,
    "lr": 0.01,
    "local_steps": 5,
    "rounds": 14,
    "threads": 1,
    "grace_timeout": 2.0,
    "eval_every": 7,
}


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Run]:
    save_topology(make_topology("ring", 6), tmp_path / "ring.graphml")

    def go(name: str, path: Path, *options: str, command: str = "gossip") -> Run:
        (tmp_path / name).mkdir()
        topology = [str(tmp_path / "ring.graphml")] if command == "gossip" else []
        run = Run(tmp_path / name, command, *topology, *FAST, "--faults", str(path), *options)
        try:
            code, err = run.end()
        finally:
            run.kill()
        assert (code, err) == (0, ""), run.lines
        return run

    return go


def check_bits(run: Run, path: Path, topology: Topology, **options: Any) -> None:
    """Assert that the simulator plays the same script to the same bits."""
    where = str(run.run_dir.parent / "simulated")
    check_simulated(run.run_dir, topology, RunConfig.of(**{**SIMULATED, **options}, faults=str(path), run_dir=where))


# When a peer is killed in a round: (peer, round, point, round of its return). No peer has two absent neighbors at once.
KILLS = [
    ("1", 2, "start", 4),
    ("4", 3, "train", 5),
    ("2", 6, "exchange", 8),
    ("5", 8, "evaluate", 10),
    ("0", 11, "checkpoint", 13),
]
PAUSES = [("3", 4, "train", 7), ("0", 8, "checkpoint", 11)]


def check_missing(run: Run, missing: list[tuple[str, int, str, int]]) -> None:
    """Assert in which rounds both neighbors of each peer missed it."""
    for peer, left, at, back in missing:
        first = left if at in ("start", "train", "exchange") else left + 1
        for watcher in (str((int(peer) - 1) % 6), str((int(peer) + 1) % 6)):
            gone = [record.round for record in run.records(watcher) if peer in (record.absent or [])]
            assert gone == list(range(first, back)), (peer, watcher)


def trained(run: Run, peer: str) -> list[int]:
    """Training rounds that a peer recorded, without those of the consensus phase."""
    return [record.round for record in run.records(peer) if record.round <= SIMULATED["rounds"]]


@pytest.mark.processes
def test_kills_at_every_point_of_a_round_end_with_the_bits_of_the_simulator(
    tmp_path: Path, play: Callable[..., Run]
) -> None:
    kills = [f'kind = "kill"\npeer = "{p}"\nround = {r}\nat = "{at}"\nrestart = {back}' for p, r, at, back in KILLS]
    path = written(tmp_path, *kills)
    run = play("run", path)
    check_bits(run, path, make_topology("ring", 6))
    check_missing(run, KILLS)
    for peer, left, _, back in KILLS:
        # The round that it died in is done again only if it comes back in it: its checkpoint is that of the one before.
        assert trained(run, peer) == [*range(1, left), *range(back, 15)]
    summary = run.summary()
    assert summary["status"] == "complete"
    assert summary["lost_peers"] == []
    assert summary["faults"] == [f"{p} killed in round {r} ({at}), back in round {back}" for p, r, at, back in KILLS]


@pytest.mark.processes
def test_pauses_end_with_the_bits_of_the_simulator(tmp_path: Path, play: Callable[..., Run]) -> None:
    pauses = [f'kind = "pause"\npeer = "{p}"\nround = {r}\nat = "{at}"\nresume = {back}' for p, r, at, back in PAUSES]
    path = written(tmp_path, *pauses)
    run = play("run", path, "--round-timeout", "4", "--first-round-timeout", "60")
    check_bits(run, path, make_topology("ring", 6), round_timeout=4.0, first_round_timeout=60.0)
    check_missing(run, PAUSES)
    for peer, left, _, back in PAUSES:
        assert trained(run, peer) == [*range(1, left + 1), *range(back, 15)]


@pytest.mark.processes
def test_a_kill_without_restart_is_for_good_and_not_repeated_on_resume(
    tmp_path: Path, play: Callable[..., Run]
) -> None:
    path = written(tmp_path, KILL)
    run = play("gone", path, "--min-peers", "5")
    assert run.summary()["lost_peers"] == ["3"]
    (tmp_path / "needed").mkdir()
    words = [str(tmp_path / "ring.graphml"), *FAST, "--faults", str(path)]
    failed = Run(tmp_path / "needed", "gossip", *words)
    code, err = failed.end()
    assert code == 1
    assert "peer 3 was killed, as the fault script says" in err
    assert "out of memory" not in err
    again = Run(tmp_path / "needed", "gossip", "--resume", str(failed.run_dir), fresh=False)
    assert again.end() == (0, "")
    assert [record.round for record in again.records("3")][:14] == list(range(1, 15))
    assert json.loads((again.run_dir / "summary.json").read_text())["status"] == "complete"


@pytest.mark.processes
def test_a_client_that_is_killed_is_missing_until_it_is_back(tmp_path: Path, play: Callable[..., Run]) -> None:
    path = written(tmp_path, f"{KILL}restart = 9")
    clients = ["--num-clients", "4", "--num-selected", "4", "--deadline", "5"]
    run = play("run", path, *clients, command="centralized")
    missing = [record.missing for record in run.records("coordinator")]
    assert missing == [[]] * 3 + [["3"]] * 5 + [[]] * 6
    assert run.summary()["lost_peers"] == []
    own = {"mode": "centralized", "num_clients": 4, "num_selected": 4, "deadline": 5.0}
    topology = topology_of(RunConfig.of(**{**SIMULATED, **own}))
    assert topology is not None
    check_bits(run, path, topology, **own)


@pytest.mark.processes
def test_a_robust_rule_tolerates_an_attacker_that_reported_means_exclude(
    tmp_path: Path, play: Callable[..., Run]
) -> None:
    save_topology(make_topology("complete", 6), tmp_path / "ring.graphml")
    path = written(tmp_path, 'kind = "attack"\npeer = "3"\nrounds = [1, 14]\nattack = "sign-flip"\nscale = 8.0')
    plain = play("plain", path).summary()
    robust = play("robust", path, "--algorithm", "trimmed-mean", "--byzantine", "1").summary()
    assert plain["mean_peer_accuracy"] < 0.4  # type: ignore[operator]
    assert robust["mean_peer_accuracy"] > 0.8  # type: ignore[operator]
    report = (tmp_path / "robust" / "run" / "report.html").read_text()
    assert "exclude the attackers: 3" in report
