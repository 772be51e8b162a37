"""Swarms on a Ray cluster of four nodes: bits, lost nodes, restarts, interrupts."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start
from tests.support.paths import ROOT
from tests.support.ray_nodes import Nodes, lost_amid
from tests.support.swarms import LIVELY, PLAIN, memory_swarm, saved_vectors

from p2pfl import RunConfig, make_topology, run_swarm
from p2pfl.cli import main
from p2pfl.config import LaunchConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.run import run
from p2pfl.launch import fork_server
from p2pfl.launch import ray as ray_launcher
from p2pfl.launch.ray_actor import surroundings_of
from p2pfl.launch.ray_cluster import connected
from p2pfl.run.paths import checkpoint_name
from p2pfl.run.records import read_rounds

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.processes

SHARE = {"launcher": "ray", "cpus_per_peer": 0.25}
RING = make_topology("ring", 4)


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Nodes]:
    with fork_server(), contextlib.closing(Nodes()) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Nodes) -> Nodes:
    whole_cluster.refill()
    return whole_cluster


def rounds_of(run_dir: Path, peer: str) -> int:
    return len(read_rounds(run_dir / "peers" / peer))


def _share_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the nodes look as if another run's folder were there under this name."""
    monkeypatch.setattr(
        ray_launcher, "surroundings_of", lambda folder: replace(surroundings_of(folder), run_id="other")
    )


def test_a_swarm_on_four_nodes_ends_with_the_bits_of_one_process(
    cluster: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig.of(**LIVELY, **SHARE, ray_address=cluster.address, run_dir=str(tmp_path / "ray"))
    result = run_swarm(RING, config)
    memory = memory_swarm(RING, RunConfig.of(**LIVELY, run_dir=str(tmp_path / "memory")))
    rounds = config.training.rounds
    assert saved_vectors(result.run_dir, RING, rounds).equal(saved_vectors(memory, RING, rounds))
    assert "4 processes on 4 nodes" in capsys.readouterr().out
    logs = [path.read_text() for path in (tmp_path / "ray").glob("peers/*/log.txt")]
    keys = {found[1] for log in logs if (found := re.search(r"ready at tcp://\S+#([0-9a-f]{64})", log))}
    assert len(keys) == 4, "each process made a key pair"
    assert all("refused messages: none" in log for log in logs)


def test_a_dry_run_shows_what_the_cluster_has_and_what_is_asked(
    cluster: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", "digits", "--dry-run", "--launcher", "ray", "--ray-address", cluster.address]
    assert main(["gossip", str(ROOT / "topologies" / "ring-4.graphml"), *options, "--cpus-per-peer", "0.5"]) == 0
    has = "4 nodes with 4 CPU and 0 GPU, of which 4 CPU, 0 GPU are free"
    assert f"cluster:     {has}; asked: 4 processes of 0.5 CPU, spread" in capsys.readouterr().out
    assert main(["gossip", str(ROOT / "topologies" / "ring-8.graphml"), *options, "--cpus-per-peer", "0.75"]) == 2
    assert capsys.readouterr().err == (
        "p2pfl: --launcher ray: the cluster has room for 4 processes of 0.75 CPU each, and the run has 8 (4 nodes with "
        "4 CPU and 0 GPU); lower --cpus-per-peer or --gpus-per-peer, or add nodes\n"
    )


def test_a_connection_to_another_cluster_than_asked_for_is_refused(cluster: Nodes) -> None:
    port = cluster.address.rpartition(":")[2]
    with connected(LaunchConfig("ray", cluster.address), 4, Path()):
        for same in (cluster.address, f"localhost:{port}", "auto", None):
            with connected(LaunchConfig("ray", same), 4, Path()):
                pass
        said = f"^--ray-address 10.9.8.7:{port}: this process is connected to the cluster at {cluster.address}; "
        with pytest.raises(ConfigError, match=said), connected(LaunchConfig("ray", f"10.9.8.7:{port}"), 4, Path()):
            pass


def test_survivors_of_a_lost_node_finish(cluster: Nodes, tmp_path: Path) -> None:
    options = {**PLAIN, "rounds": 12, "grace_timeout": 2.0, "min_peers": 2, "round_timeout": 120.0}
    config = RunConfig.of(**options, **SHARE, ray_address=cluster.address, run_dir=str(tmp_path / "run"))
    with lost_amid(cluster, tmp_path / "run", RING.names, 1, lambda _: {1, 2, 3}) as victims:
        result = run(config, RING, link_delay=0.1)
    assert result.summary["lost_peers"] == victims[0].names
    survivors = [name for name in RING.names if name not in victims[0].names]
    assert len({rounds_of(result.run_dir, name) for name in survivors}) == 1
    assert result.summary["consensus_accuracy"] is not None


def test_a_peer_comes_back_on_another_node_though_nodes_share_no_folder(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _share_no_folder(monkeypatch)
    # Its neighbors wait for the connection: so the run is not over before it is back.
    options = {**PLAIN, "rounds": 6, "restart": 1, "grace_timeout": 200.0, "round_timeout": 200.0}
    run_dir = tmp_path / "run"
    config = RunConfig.of(**options, **SHARE, ray_address=cluster.address, run_dir=str(run_dir))
    with lost_amid(cluster, run_dir, RING.names, 2, lambda _: {1, 2, 3}) as victims:
        result = run(config, RING, link_delay=0.1)
    assert capsys.readouterr().out.count(f"does not share {run_dir}: the launcher collects its files there") == 1
    assert result.summary["lost_peers"] == []
    assert result.summary["restarts"] == dict.fromkeys(victims[0].names, 1)
    last = 6 + result.summary["consensus_rounds"]
    for name in RING.names:
        folder = run_dir / "peers" / name
        assert [record.round for record in read_rounds(folder)] == list(range(1, last + 1))
        assert "done; refused messages" in (folder / "log.txt").read_text()
        assert {path.name for path in (folder / "checkpoint").iterdir()} == {checkpoint_name(5), checkpoint_name(6)}
    assert (run_dir / "consensus.safetensors").exists()


def test_a_peer_without_a_checkpoint_comes_back_with_its_neighbors_weights(cluster: Nodes, tmp_path: Path) -> None:
    options = {**PLAIN, "rounds": 6, "restart": 1, "grace_timeout": 200.0, "round_timeout": 200.0, "checkpoint": False}
    run_dir = tmp_path / "run"
    config = RunConfig.of(**options, **SHARE, ray_address=cluster.address, run_dir=str(run_dir))
    with lost_amid(cluster, run_dir, RING.names, 2, lambda _: {1, 2, 3}) as victims:
        result = run(config, RING, link_delay=0.1)
    assert result.summary["lost_peers"] == []
    assert result.summary["restarts"] == dict.fromkeys(victims[0].names, 1)
    last = 6 + result.summary["consensus_rounds"]
    for name in RING.names:
        assert [record.round for record in read_rounds(run_dir / "peers" / name)][-1] == last
        assert "done; refused messages" in (run_dir / "peers" / name / "log.txt").read_text()
    for name in victims[0].names:
        assert "takes over the weights of peer" in (run_dir / "peers" / name / "log.txt").read_text()


def test_a_coordinator_continues_without_the_client_of_a_lost_node(cluster: Nodes, tmp_path: Path) -> None:
    options = {**PLAIN, "rounds": 8, "num_clients": 3, "num_selected": 3, "min_updates": 1, "grace_timeout": 2.0}
    del options["schedule"]
    config = RunConfig.of(
        mode="centralized", **options, **SHARE, ray_address=cluster.address, run_dir=str(tmp_path / "run")
    )

    def apart(places: dict[int, str]) -> set[int]:
        return {client for client in (0, 1, 2) if places[client] != places[3]}  # 3 is the coordinator

    with lost_amid(cluster, tmp_path / "run", ["0", "1", "2", "coordinator"], 1, apart) as victims:
        result = run(config, link_delay=0.1)
    assert result.summary["lost_peers"] == victims[0].names
    assert rounds_of(result.run_dir, "coordinator") == 8


def test_ctrl_c_ends_all_actors_and_the_cluster_of_the_run(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    share = ("--launcher", "ray", "--cpus-per-peer", "0.5")
    swarm = start(
        ring(tmp_path), *FAST, *share, "--local-steps", "2", "--rounds", "10000", "--run-dir", str(tmp_path / "run")
    )
    swarm.until("round 3/")
    family = swarm.family()
    assert any("raylet" in process.name() for process in family)
    swarm.process.send_signal(signal.SIGINT)
    code, err = swarm.end()
    assert code == 130
    assert "--resume" in err
    assert err.count("\n") == 1, err
    nobody_left(swarm, family)


def test_the_loss_of_the_head_ends_the_run_in_order(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    """Only its own process is lost here, so that all others can still be told to stop."""
    share = ("--launcher", "ray", "--cpus-per-peer", "0.5")
    swarm = start(
        ring(tmp_path), *FAST, *share, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(tmp_path / "run")
    )
    swarm.until("round 3/")
    family = swarm.family()
    [head] = [process for process in family if process.name() == "gcs_server"]
    head.kill()
    code, err = swarm.end(120.0)
    assert code == 1
    assert re.fullmatch(
        r"p2pfl: the head of the Ray cluster, \S+, has not answered for 20 s; everything until then is saved; "
        r"resume with: .* --resume \S+\n",
        err,
    ), err
    nobody_left(swarm, family)
    for name in ("0", "1", "2"):
        folder = tmp_path / "run" / "peers" / name
        assert "stopped" in (folder / "log.txt").read_text()
        assert (folder / "checkpoint" / checkpoint_name(rounds_of(tmp_path / "run", name))).exists()
