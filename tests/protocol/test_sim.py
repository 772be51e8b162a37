"""Simulator: whole runs on virtual time, with real training and the real loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.fault_scripts import fault

from p2pfl import RunConfig, make_topology
from p2pfl.errors import P2PFLError
from p2pfl.modes import topology_of
from p2pfl.run.paths import MODEL_FILE, peer_dirs
from p2pfl.run.records import RoundRecord, read_rounds
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
    "eval_samples": 50,
    "threads": 1,
}
RING = make_topology("ring", 4)


def simulation(run_dir: Path, topology: Topology = RING, speed: LinkSpeed | None = None, **options: Any) -> Simulation:
    return Simulation(topology, RunConfig.of(**{**TINY, **options}, run_dir=str(run_dir)), speed=speed)


def model(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / MODEL_FILE)


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(model(a)[name], tensor) for name, tensor in model(b).items())


def test_slow_links_take_virtual_time_and_change_no_bit(tmp_path: Path) -> None:
    fast = simulation(tmp_path / "fast")
    fast.run()
    slow = simulation(tmp_path / "slow", speed=LinkSpeed(latency=0.5, bandwidth=1e4))
    slow.run()
    assert same(fast.run_dir, slow.run_dir)
    assert fast.clock.now() == 3.0, "three rounds of a second, and nothing else takes time"
    assert slow.clock.now() > 3.0 + 3 * 0.5


@pytest.mark.parametrize("options", [{"order": "overlapped"}, {"wire_dtype": "bf16"}, {"seed": 1}])
def test_options_reach_the_swarm(tmp_path: Path, options: dict[str, Any]) -> None:
    for name, chosen in (("plain", {}), ("other", options)):
        simulation(tmp_path / name, **chosen).run()
    assert not same(tmp_path / "plain", tmp_path / "other")


def test_a_link_that_is_cut_and_healed_within_the_grace_changes_no_bit(tmp_path: Path) -> None:
    simulation(tmp_path / "whole").run()
    cut = simulation(tmp_path / "cut", speed=LinkSpeed(latency=0.1))
    while cut.clock.now() < 1.05:
        cut.step()
    cut.network.cut(0, 1)
    while cut.clock.now() < 4.0 and cut.step():
        pass
    cut.network.heal(0, 1)
    cut.run()
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_link_that_stays_cut_ends_a_run_that_needs_everybody(tmp_path: Path) -> None:
    broken = simulation(tmp_path / "run")
    broken.network.cut(0, 1)
    with pytest.raises(P2PFLError, match=r"peer [01]"):
        broken.run()
    assert broken.clock.now() >= 10.0, "the grace of a broken connection"


@pytest.mark.parametrize("mode", ["centralized", "sgd", "local"])
def test_every_mode_runs_and_records_its_rounds(tmp_path: Path, mode: str) -> None:
    clients = {"num_clients": 3, "num_selected": 2} if mode == "centralized" else {}
    config = RunConfig.of(**TINY, **clients, mode=mode, run_dir=str(tmp_path / "run"))
    run = Simulation(topology_of(config) or RING, config)
    run.run()
    folders = peer_dirs(run.run_dir, topology_of(config) or RING)
    rounds = [[record.round for record in read_rounds(folder)] for folder in folders]
    assert rounds[-1] == [1, 2, 3]
    assert math.isfinite(read_rounds(folders[-1])[-1].train_loss or math.nan)
    assert (run.run_dir / MODEL_FILE).exists() == (mode != "local")


# Fault scripts, which end as on real processes (`tests/processes/test_fault_runs.py`)

FAULTY: dict[str, Any] = {"rounds": 7, "eval_every": 7, "round_timeout": 2.0, "grace_timeout": 2.0}
CLIENTS = {**FAULTY, "mode": "centralized", "num_clients": 3, "num_selected": 3, "deadline": 5.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """The run without a fault."""
    made = simulation(tmp_path_factory.mktemp("whole") / "run", **FAULTY)
    made.run()
    return made


def play(folder: Path, script: str, topology: Topology = RING, **options: Any) -> Simulation:
    """A simulation of a script to its end."""
    folder.mkdir()
    (folder / "faults.toml").write_text(script)
    made = simulation(folder / "run", topology, faults=str(folder / "faults.toml"), **{**FAULTY, **options})
    made.run()
    return made


def twice(folder: Path, script: str, topology: Topology = RING, **options: Any) -> Simulation:
    """The second of two simulations of a script, which have the same records and bits."""
    runs = [play(folder / name, script, topology, **options) for name in ("one", "two")]
    assert records(runs[0]) == records(runs[1])
    assert same(runs[0].run_dir, runs[1].run_dir)
    assert runs[0].clock.now() == runs[1].clock.now()
    return runs[1]


def records(run: Simulation) -> dict[str, list[RoundRecord]]:
    return {folder.name: read_rounds(folder) for folder in sorted((run.run_dir / "peers").iterdir())}


def rounds(run: Simulation, name: str) -> list[int]:
    return [record.round for record in records(run)[name] if record.phase == "train"]


def rounds_without(run: Simulation, watcher: str, who: str) -> list[int]:
    return [record.round for record in records(run)[watcher] if who in (record.absent or record.missing or ())]


@pytest.mark.parametrize("at", ["start", "train", "exchange", "evaluate", "checkpoint"])
def test_a_killed_peer_is_missing_until_the_round_of_its_return(tmp_path: Path, at: str) -> None:
    run = twice(tmp_path, fault(kind="kill", peer="3", round=3, restart=6, at=at))
    first = 3 if at in ("start", "train", "exchange") else 4
    assert rounds_without(run, "2", "3") == rounds_without(run, "0", "3") == list(range(first, 6))
    assert rounds(run, "3") == [1, 2, 6, 7]
    assert run.outcome.lost == []
    assert "peer 3 was killed, as the fault script says, to be back in round 6" in run.lines


def test_a_peer_that_is_killed_for_good_is_lost_and_another_saves_the_model(tmp_path: Path) -> None:
    run = twice(tmp_path, fault(kind="kill", peer="0", round=3), min_peers=3)
    assert run.outcome.lost == ["0"]
    assert rounds_without(run, "1", "0")[0] == 3
    assert rounds(run, "0") == [1, 2]
    assert (run.run_dir / MODEL_FILE).exists()


def test_a_death_ends_a_run_that_needs_everybody_and_it_resumes_without_it(tmp_path: Path, whole: Simulation) -> None:
    script = fault(kind="kill", peer="3", round=3)
    with pytest.raises(P2PFLError, match="peer 3 was killed, as the fault script says"):
        play(tmp_path / "cut", script)
    faults = str(tmp_path / "cut" / "faults.toml")
    config = RunConfig.of(**{**TINY, **FAULTY}, faults=faults, run_dir=str(tmp_path / "cut" / "run"))
    Simulation(RING, config, resume=tmp_path / "cut" / "run").run()
    assert same(whole.run_dir, tmp_path / "cut" / "run")


def test_a_restart_within_the_grace_period_costs_nothing_but_time(tmp_path: Path, whole: Simulation) -> None:
    """A peer that dies is started again at once, and its neighbors miss nothing of it."""
    run = simulation(tmp_path / "run", **FAULTY, restart=1)
    while run.clock.now() < 4.0:
        run.step()
    run.workers[3].kill()
    run.run()
    assert run.outcome.restarts == {"3": 1}
    assert not rounds_without(run, "2", "3")
    assert rounds(run, "3") == list(range(1, 8))
    assert same(whole.run_dir, run.run_dir)


@pytest.mark.parametrize("at", ["start", "train", "exchange", "evaluate", "checkpoint"])
def test_a_paused_peer_is_missing_until_it_is_woken(tmp_path: Path, at: str) -> None:
    run = twice(tmp_path, fault(kind="pause", peer="3", round=3, resume=6, at=at))
    first = 3 if at in ("start", "train", "exchange") else 4
    assert rounds_without(run, "2", "3") == rounds_without(run, "0", "3") == list(range(first, 6))
    assert rounds(run, "3") == [1, 2, 3, 6, 7]
    assert run.outcome.lost == []


def test_a_peer_that_stays_paused_is_lost_when_the_others_have_finished(tmp_path: Path) -> None:
    run = simulation(tmp_path / "run", **FAULTY, min_peers=3)
    while run.clock.now() < 4.0:
        run.step()
    run.workers[3].pause()
    run.run()
    assert run.outcome.lost == ["3"]
    assert rounds(run, "2")[-1] == 7


SCRIPTED = {
    "killed": {"kind": "kill", "restart": 6},
    "killed for good": {"kind": "kill"},
    "paused": {"kind": "pause", "resume": 6},
}


@pytest.mark.parametrize("kind", SCRIPTED)
def test_a_peer_that_is_away_stays_away_after_a_stop_of_the_whole_run(tmp_path: Path, kind: str) -> None:
    script = fault(peer="3", round=3, **SCRIPTED[kind])
    undisturbed = play(tmp_path / "whole", script, min_peers=3)
    options = {**TINY, **FAULTY, "min_peers": 3, "faults": str(tmp_path / "whole" / "faults.toml")}
    config = RunConfig.of(**options, run_dir=str(tmp_path / "run"))
    stopped = Simulation(RING, config)
    while len(records(stopped)["0"]) < 4:
        stopped.step()
    stopped.close()
    resumed = Simulation(RING, config, resume=tmp_path / "run")
    resumed.run()
    assert told(resumed) == told(undisturbed)
    assert same(undisturbed.run_dir, resumed.run_dir)
    assert resumed.outcome.lost == undisturbed.outcome.lost


def told(run: Simulation) -> dict[str, list[tuple[object, ...]]]:
    """Facts in the records of all processes, except times and bytes."""
    return {
        name: [(r.round, r.phase, r.steps, r.samples, r.train_loss, r.test_accuracy, r.absent) for r in found]
        for name, found in records(run).items()
    }


@pytest.mark.parametrize("kind", ["delay", "drop", "corrupt"])
def test_a_bad_link_costs_time_and_changes_no_bit(tmp_path: Path, whole: Simulation, kind: str) -> None:
    harm = {"seconds": 0.3} if kind == "delay" else {"probability": 0.2}
    run = twice(tmp_path, fault(kind=kind, edge=["0", "1"], rounds=[2, 6], **harm))
    assert same(whole.run_dir, run.run_dir)
    assert run.clock.now() > whole.clock.now()
    assert bool(run.outcome.refused.get("version")) == (kind == "corrupt")


def test_parts_of_a_partition_are_without_each_other(tmp_path: Path, whole: Simulation) -> None:
    apart = [["0", "1", "2"], ["3"]]
    run = twice(tmp_path, fault(kind="partition", rounds=[3, 5], parts=apart))
    assert not same(whole.run_dir, run.run_dir)
    sent = [record.sent_to.get("3", 0) for record in records(run)["2"]]
    assert max(sent[2:5]) < 2000 < min(sent[:2] + sent[5:7]), "no vector while they are apart"


@pytest.mark.parametrize("attack", ["sign-flip", "label-flip"])
def test_an_attack_changes_the_model(tmp_path: Path, whole: Simulation, attack: str) -> None:
    run = twice(tmp_path, fault(kind="attack", peer="1", rounds=[3, 5], attack=attack))
    assert not same(whole.run_dir, run.run_dir)


@pytest.mark.parametrize("at", ["train", "exchange", "evaluate"])
def test_a_killed_client_is_missing_until_the_round_of_its_return(tmp_path: Path, at: str) -> None:
    topology = topology_of(RunConfig.of(**{**TINY, **CLIENTS}))
    assert topology is not None
    run = twice(tmp_path, fault(kind="kill", peer="1", round=3, restart=6, at=at), topology, **CLIENTS)
    first = 4 if at == "evaluate" else 3  # its update of round 3 had been taken
    assert rounds_without(run, "coordinator", "1") == list(range(first, 6))
    assert rounds(run, "1") == [1, 2, 6, 7]


def test_a_killed_coordinator_ends_the_run(tmp_path: Path) -> None:
    topology = topology_of(RunConfig.of(**{**TINY, **CLIENTS}))
    assert topology is not None
    with pytest.raises(P2PFLError, match="the coordinator was killed"):
        play(tmp_path / "run", fault(kind="kill", peer="coordinator", round=3, at="checkpoint"), topology, **CLIENTS)


# Slow links


@pytest.mark.parametrize("mode", ["gossip", "centralized"])
def test_a_vector_of_one_chunk_on_a_slow_link_is_sent_once(tmp_path: Path, mode: str) -> None:
    """It takes longer than a reminder; copies of the same would pile up on the link."""
    clients = {"num_clients": 2, "num_selected": 2} if mode == "centralized" else {}
    options = {**TINY, **clients, "mode": mode, "round_timeout": 60.0, "first_round_timeout": 60.0}
    topology = topology_of(RunConfig.of(**options)) or RING
    sizes = []
    for name, speed in (("fast", None), ("slow", LinkSpeed(latency=0.1, bandwidth=6_000.0))):
        run = Simulation(topology, RunConfig.of(**options, run_dir=str(tmp_path / name)), speed=speed)
        run.run()
        assert run.clock.now() > 3 * 20 or speed is None
        sizes.append(sum(record.bytes_sent for found in records(run).values() for record in found))
    assert sizes[1] < 1.1 * sizes[0]
