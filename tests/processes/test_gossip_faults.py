"""Peers that crash, freeze, wake and rejoin, as real processes.

The others continue, and the records say so.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.support import commands
from tests.support.helpers import free_ports, ring_with_chord, token_file
from tests.support.real_run import Run
from tests.support.same_bits import check_simulated

from p2pfl import make_topology
from p2pfl.config import load_toml
from p2pfl.config.run import replace_options
from p2pfl.node.control import EXIT_FAILED
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, checkpoint_name, peer_dir
from p2pfl.run.records import read_rounds
from p2pfl.topology import save_topology

FAST = shlex.split(
    "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --local-steps 20 --eval-every 1000000"
    " --threads 1 --grace-timeout 2"
)
MANY = "100000"

pytestmark = pytest.mark.processes


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """A ring of five; peer 2's neighbors are 1 and 3."""
    runs: list[Run] = []
    save_topology(make_topology("ring", 5), tmp_path / "ring.graphml")

    def begin(*options: str, command: str = "gossip", fresh: bool = True, graph: str = "ring.graphml") -> Run:
        topology = [str(tmp_path / graph), *FAST] if fresh else []
        runs.append(Run(tmp_path, command, *topology, *options, fresh=fresh))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def away(run: Run, watcher: str, who: str) -> list[int]:
    """The rounds that a peer went without another."""
    return [record.round for record in run.records(watcher) if record.absent == [who]]


def spans(rounds: list[int]) -> int:
    """Number of times that a peer was missing."""
    return sum(round - 1 not in rounds for round in rounds)


def test_the_others_continue_without_a_peer_that_crashed(start: Callable[..., Run]) -> None:
    run = start("--rounds", "60", "--min-peers", "4")
    run.signal_in_round("2", signal.SIGKILL, 5)
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    for watcher in ("1", "3"):
        gone = away(run, watcher, "2")
        assert gone[0] >= 5
        assert gone == list(range(gone[0], run.records(watcher)[-1].round + 1))
        assert max(record.wait_seconds for record in run.records(watcher)) < 20, "grace period, then on"
    assert all(record.absent is None for record in run.records("0"))
    summary = run.summary()
    assert (summary["status"], summary["lost_peers"], summary["components"]) == ("complete", ["2"], [])
    (missing,) = summary["missing_peers"]  # type: ignore[misc]
    assert missing["peer"] == "2"  # type: ignore[index]
    assert isinstance(summary["consensus_accuracy"], float)
    assert any("peer 2 died (killed by SIGKILL" in line for line in run.lines)
    assert any("continues without peer 2 from round" in line for line in run.lines)


def test_a_death_ends_the_run_where_all_must_live_and_it_can_be_resumed(start: Callable[..., Run]) -> None:
    run = start("--rounds", "40")
    run.signal_in_round("2", signal.SIGKILL, 5)
    code, err = run.end()
    assert code == EXIT_FAILED
    assert err.count("\n") == 1, err
    assert "peer 2 died (killed by SIGKILL" in err
    assert f"--resume {run.run_dir}" in err
    assert run.summary()["status"] == "incomplete"
    again = start("--resume", str(run.run_dir), fresh=False)
    code, err = again.end()
    assert (code, err) == (0, ""), again.lines
    assert again.summary()["status"] == "complete"
    assert [record.round for record in again.records("2")][:40] == list(range(1, 41))


def test_whoever_is_left_saves_the_model_when_the_first_peer_dies(start: Callable[..., Run]) -> None:
    run = start("--rounds", "60", "--min-peers", "4")
    run.signal_in_round("0", signal.SIGKILL, 5)
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    summary = run.summary()
    assert summary["lost_peers"] == ["0"]
    assert isinstance(summary["consensus_accuracy"], float)
    assert (run.run_dir / "consensus.safetensors").exists()


def test_fewer_than_must_live_end_the_run(start: Callable[..., Run]) -> None:
    run = start("--rounds", MANY, "--min-peers", "4", "--no-checkpoint")
    run.until("rounds of training")
    first, second = run.worker("1"), run.worker("3")
    run.until("round 3/")
    first.kill()
    run.until("peer 1 died")
    second.kill()
    code, err = run.end()
    assert code == EXIT_FAILED
    assert "peer 3 died" in err
    assert "first: peer 1 died" in err
    assert sorted(run.summary()["lost_peers"]) == ["1", "3"]  # type: ignore[call-overload]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_restarted_peer_continues(start: Callable[..., Run], checkpoints: bool) -> None:
    run = start("--rounds", "150", "--restart", "1", *([] if checkpoints else ["--no-checkpoint"]))
    run.signal_in_round("2", signal.SIGKILL, 5)
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    summary = run.summary()
    assert (summary["status"], summary["lost_peers"], summary["restarts"]) == ("complete", [], {"2": 1})
    rounds = [record.round for record in run.records("2")]
    assert rounds == sorted(set(rounds))
    assert rounds[-1] == run.records("1")[-1].round
    for watcher in ("1", "3"):
        assert spans(away(run, watcher, "2")) <= 1
    assert any("peer 2 died (killed by SIGKILL" in line and "started again" in line for line in run.lines)
    assert (run.run_dir / "consensus.safetensors").exists()


def test_a_killed_and_restarted_peer_loses_none_of_push_sums_mass(tmp_path: Path, start: Callable[..., Run]) -> None:
    """The weights, and what peers owe to others, are in their last checkpoints."""
    topology, rounds = ring_with_chord(5), 60
    save_topology(topology, tmp_path / "ring.graphml")
    push = ["--algorithm", "push-sum", "--mixing", "column-stochastic"]
    run = start("--rounds", str(rounds), "--restart", "1", *push)
    run.signal_in_round("2", signal.SIGKILL, 5)
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    assert run.summary()["restarts"] == {"2": 1}
    weights = []
    for me in range(5):
        state = checkpoint.load(
            peer_dir(run.run_dir, topology, me) / CHECKPOINTS_FOLDER / checkpoint_name(rounds)
        ).algorithm
        owed = [float(state.get(f"owed_weight.{other}", 0.0)) for other in range(5)]
        weights.append(float(state["weight"]) + sum(owed))
    assert sum(weights) == pytest.approx(5, abs=1e-9)
    assert max(weights) - min(weights) > 0.3


def test_push_sum_on_a_schedule_resumes_to_the_bits_of_a_run_without_a_death(
    tmp_path: Path, start: Callable[..., Run]
) -> None:
    topology = make_topology("one-peer-exponential", 4)
    save_topology(topology, tmp_path / "schedule.json")
    options = ["--algorithm", "push-sum", "--mixing", "column-stochastic", "--rounds", "30"]
    run = start(*options, graph="schedule.json")
    run.signal_in_round("2", signal.SIGKILL, 5)
    assert run.end()[0] == EXIT_FAILED
    again = start("--resume", str(run.run_dir), fresh=False)
    assert again.end() == (0, ""), again.lines
    config = replace_options(load_toml(run.run_dir / "config.toml"), run_dir=str(tmp_path / "simulated"))
    check_simulated(run.run_dir, topology, config)
    assert again.summary()["final_merge"] == "exact"


def test_a_frozen_peer_is_skipped_and_catches_up(start: Callable[..., Run]) -> None:
    run = start("--rounds", "180", "--min-peers", "4", "--round-timeout", "2")
    run.until("rounds of training")
    frozen = run.worker("2")
    run.until("round 5/")
    frozen.suspend()
    run.until("continues without peer 2")
    run.until("continues without peer 2")
    frozen.resume()
    run.until("peer 2 is back from round")
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    assert run.summary()["lost_peers"] == []
    for watcher in ("1", "3"):
        gone = away(run, watcher, "2")
        assert gone
        assert gone[-1] < 180, "it is back"
    assert not any(record.absent for record in run.records("0")), "those who waited for it were not given up"
    assert run.records("2")[-1].round == run.records("1")[-1].round


def test_a_peer_that_stays_frozen_is_lost_at_the_end(start: Callable[..., Run]) -> None:
    run = start("--rounds", "60", "--min-peers", "4", "--round-timeout", "2", "--no-checkpoint")
    run.signal_in_round("2", signal.SIGSTOP, 5)
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    assert run.summary()["lost_peers"] == ["2"]
    assert run.summary()["status"] == "complete"


def test_connected_components_of_a_split_graph_continue_and_are_named(start: Callable[..., Run]) -> None:
    # The terminal is told later, and a busy test reads later: 40 rounds may be over by then.
    run = start("--rounds", "200", "--min-peers", "3", "--no-checkpoint")
    run.until("rounds of training")
    first, second = run.worker("1"), run.worker("3")
    run.until("round 3/")
    first.kill()
    second.kill()
    code, err = run.end()
    assert (code, err) == (0, ""), run.lines
    parts = run.summary()["components"]
    assert parts[-1]["components"] == [["0", "4"], ["2"]]  # type: ignore[index]
    assert any(line.startswith("disconnected in round") and line.endswith("0, 4 | 2") for line in run.lines)


def test_peers_on_their_own_start_late_and_come_back(tmp_path: Path) -> None:
    topology = make_topology("ring", 4)
    for peer, port in enumerate(free_ports(4)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    save_topology(topology, tmp_path / "ring.gml")
    words = [*FAST, "--rounds", "400", "--min-peers", "3", "--round-timeout", "4", "--start-timeout", "12"]
    words += ["--token-file", token_file(tmp_path)]

    def begin(node: str, *more: str) -> subprocess.Popen[str]:
        where = [str(tmp_path / "ring.gml"), *words, "--run-dir", str(tmp_path / node)]
        return commands.start("peer", *(more or where), "--node", node)

    def until(process: subprocess.Popen[str], text: str) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(text in line for line in process.stdout), process.stderr.read()

    peers = {node: begin(node) for node in "013"}
    try:
        until(peers["0"], "round 2/400")  # begun after the start timeout, without peer 2
        peers["2"] = begin("2")
        until(peers["2"], "round ")
        peers["3"].kill()
        peers["3"].communicate()
        peers["3"] = begin("3", "--resume", str(tmp_path / "3"))
        drains = [threading.Thread(target=p.stdout.read, daemon=True) for p in peers.values() if p.stdout]
        for drain in drains:
            drain.start()
        for node, process in peers.items():
            assert process.wait(200) == 0, (node, process.stderr.read() if process.stderr else "")
        late = [record.round for record in read_rounds(tmp_path / "2" / "peers" / "2")]
        assert late[0] > 1, "it went straight to where the others were"
        assert late[-1] == read_rounds(tmp_path / "0" / "peers" / "0")[-1].round
    finally:
        for process in peers.values():
            process.kill()
            process.wait()


def test_a_killed_launcher_leaves_nobody_behind(start: Callable[..., Run]) -> None:
    run = start("--rounds", MANY, "--restart", "3", "--no-checkpoint")
    run.until("round 2/")
    family = run.family()
    assert len(family) >= 5
    run.process.kill()
    _, alive = psutil.wait_procs(family, timeout=60.0)
    assert not alive
