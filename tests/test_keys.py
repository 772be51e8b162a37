"""Keys: made, checked, and used by whole swarms of real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest
import torch
import zmq
from test_cli import free_ports
from test_swarm import LIVELY, memory_swarm, saved_vectors

from p2pfl import RunConfig, keyring, make_topology, run_swarm
from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.topology import Topology, load_topology, save_topology
from p2pfl.transport import Keys

# The command


def keyed_ring(folder: Path, name: str = "ring.graphml") -> tuple[Topology, Path]:
    save_topology(make_topology("ring", 3), folder / name)
    assert main(["keys", str(folder / name), "-o", str(folder / "secret")]) == 0
    return load_topology(folder / name), folder / "secret"


@pytest.mark.parametrize("name", ["ring.graphml", "ring.gml", "ring.gexf", "ring.json"])
def test_keys_are_made_for_every_peer_and_nobody_else_can_read_them(tmp_path: Path, name: str) -> None:
    before = os.umask(0)
    try:
        topology, folder = keyed_ring(tmp_path, name)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    public = keyring.public_keys(topology)
    assert sorted(public) == [0, 1, 2]
    for peer in range(3):
        path = folder / f"{peer}.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secret = path.read_text().strip()
        assert zmq.curve_public(secret.encode()).decode() == public[peer]
        assert secret not in (tmp_path / name).read_text()
    keyring.check_keys(topology, str(folder), False, range(3))


def test_everything_else_in_the_file_stays(tmp_path: Path) -> None:
    graph = nx.DiGraph(name="mine")
    graph.add_node("a", host="127.0.0.1", port=4001, color="red")
    graph.add_node("b/c", host="127.0.0.1", port=4002, device="cpu")
    graph.add_edge("a", "b/c", weight=0.5, length=3)
    graph.add_edge("b/c", "a", weight=0.5)
    nx.write_graphml(graph, tmp_path / "mine.graphml")
    assert main(["keys", str(tmp_path / "mine.graphml"), "-o", str(tmp_path / "secret")]) == 0
    after = nx.read_graphml(tmp_path / "mine.graphml")
    for _, data in after.nodes(data=True):
        assert len(data.pop("public_key")) == 40
    assert dict(after.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(after.edges(data=True)) == list(graph.edges(data=True))
    assert {path.name for path in (tmp_path / "secret").iterdir()} == {"a.key", "b%2Fc.key"}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology, folder = keyed_ring(tmp_path)
    files = {path: path.read_bytes() for path in [*folder.iterdir(), tmp_path / "ring.graphml"]}
    again = ["keys", str(tmp_path / "ring.graphml"), "-o", str(tmp_path / "others")]
    assert "has public keys already" in refused(again, capsys)
    assert not (tmp_path / "others").exists()
    save_topology(make_topology("ring", 3), tmp_path / "new.graphml")
    plain = (tmp_path / "new.graphml").read_bytes()
    (folder / "0.key").unlink()
    del files[folder / "0.key"]
    assert "1.key: exists already" in refused(["keys", str(tmp_path / "new.graphml"), "-o", str(folder)], capsys)
    assert {path: path.read_bytes() for path in files} == files
    assert not (folder / "0.key").exists(), "all or nothing"
    assert (tmp_path / "new.graphml").read_bytes() == plain
    assert topology.n == 3


def test_formats_without_attributes_are_refused_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "ring.edgelist")
    error = refused(["keys", str(tmp_path / "ring.edgelist"), "-o", str(tmp_path / "secret")], capsys)
    assert "holds no public keys" in error
    assert ".graphml" in error
    assert not (tmp_path / "secret").exists()


def without(topology: Topology, peer: int) -> Topology:
    graph = topology.graph.copy()
    del graph.nodes[peer]["public_key"]
    return replace(topology, graph=graph)


BAD = {
    "missing": (lambda folder: (folder / "1.key").unlink(), "1.key: cannot be read"),
    "readable": (lambda folder: (folder / "1.key").chmod(0o640), "others can read it (mode 0640); chmod 600"),
    "no key": (lambda folder: (folder / "1.key").write_text("x" * 39), "1.key: no secret key"),
    "not text": (lambda folder: (folder / "1.key").write_bytes(b"\xff" * 40), "1.key: no secret key"),
    "of another": (
        lambda folder: (folder / "1.key").write_bytes((folder / "2.key").read_bytes()),
        "does not belong to the public_key of node '1'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_keys_that_cannot_be_used_are_refused_before_anything_starts(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = keyed_ring(tmp_path)
    spoil, reason = BAD[name]
    spoil(folder)
    words = ["gossip", str(tmp_path / "ring.graphml"), "--keys", str(folder), "--dataset", "digits"]
    assert reason in refused([*words, "--run-dir", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_public_and_secret_keys_are_asked_for_together(tmp_path: Path) -> None:
    topology, folder = keyed_ring(tmp_path)
    with pytest.raises(ConfigError, match=r"has public keys; say where the secret ones are \(--keys DIR\)"):
        keyring.check_keys(topology, None, False, range(3))
    keyring.check_keys(topology, None, True, range(3))
    with pytest.raises(ConfigError, match="node '2' has no public_key"):
        keyring.check_keys(without(topology, 2), str(folder), False, range(3))
    keyring.check_keys(make_topology("ring", 3), None, False, range(3))


def test_keys_mean_nothing_with_a_coordinator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--keys x: only a gossip run" in refused(["centralized", "--keys", "x", "--dataset", "digits"], capsys)


def test_a_secret_is_in_no_representation() -> None:
    assert "hidden" not in repr(Keys("public", "hidden", {1: "other"}))


# Swarms


def no_secret_in(run_dir: Path, folder: Path) -> None:
    secrets = [path.read_bytes().strip() for path in folder.iterdir()]
    for path in run_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_swarm_with_keys_ends_with_the_same_bits(tmp_path: Path, transport: str) -> None:
    topology, folder = keyed_ring(tmp_path)
    options = {**LIVELY, "rounds": 2}
    plain = memory_swarm(topology, RunConfig.of(**options, run_dir=str(tmp_path / "memory")))
    config = RunConfig.of(**options, transport=transport, keys=str(folder), run_dir=str(tmp_path / "keyed"))
    result = run_swarm(topology, config)
    assert torch.equal(saved_vectors(result.run_dir, topology, 2), saved_vectors(plain, topology, 2))
    assert keyring.public_keys(load_topology(result.run_dir / "topology.graphml")) == keyring.public_keys(topology)
    no_secret_in(result.run_dir, folder)


@pytest.mark.slow
def test_peers_on_their_own_need_no_more_than_their_own_key(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    for peer, port in enumerate(free_ports(3)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    save_topology(topology, tmp_path / "ring.graphml")
    assert main(["keys", str(tmp_path / "ring.graphml"), "-o", str(tmp_path / "secret")]) == 0
    words = [str(tmp_path / "ring.graphml"), "--dataset", "digits", "--model", "user_models:linear", "--rounds", "3"]
    here = Path(__file__).parent
    peers = []
    for node in "012":
        own = tmp_path / f"machine-{node}"
        own.mkdir()
        (tmp_path / "secret" / f"{node}.key").rename(own / f"{node}.key")
        where = ["--keys", str(own), "--run-dir", str(tmp_path / f"run-{node}"), "--node", node]
        program = [sys.executable, str(here.parent / "run_peers.py"), "peer", *words, *where]
        pipe = subprocess.PIPE
        peers.append(subprocess.Popen(program, cwd=here, stdout=pipe, stderr=pipe, text=True))
    try:
        for process in peers:
            out, err = process.communicate(timeout=200)
            assert (process.returncode, err) == (0, ""), out
    finally:
        for process in peers:
            process.kill()
            process.wait()
