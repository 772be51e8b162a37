"""Peers that find each other end with the bits of the local launcher."""

from __future__ import annotations

import random
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support import commands
from tests.support.helpers import token_file
from tests.support.paths import MODELS
from tests.support.same_bits import check_same_bits

from p2pfl import RunConfig, make_topology, run_swarm
from p2pfl.cli import main
from p2pfl.report import summarize
from p2pfl.topology import Topology, load_topology, save_topology
from p2pfl.transport.keyring import make_keys

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("blank_plots")]

RING = make_topology("ring", 4)
OPTIONS = shlex.split("--dataset digits --model user_models:linear --rounds 3 --local-steps 2 --lr 0.01 --threads 1")
SECONDS = 200.0


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run directory of the local launcher, with the same options."""
    monkeypatch.syspath_prepend(MODELS)
    options = {
        "dataset": "digits",
        "model": "user_models:linear",
        "rounds": 3,
        "local_steps": 2,
        "lr": 0.01,
        "threads": 1,
    }
    return run_swarm(RING, RunConfig.of(**options, run_dir=str(tmp_path / "launched"))).run_dir


@contextmanager
def started(
    folder: Path, nodes: Sequence[int], *options: str, ring: Topology = RING
) -> Iterator[dict[int, subprocess.Popen[str]]]:
    """Peers of the ring, each started when the one before has announced itself.

    None outlives the context.
    """
    save_topology(ring, folder / "ring.graphml")
    words = ["peer", str(folder / "ring.graphml"), *OPTIONS, "--run-dir", str(folder / "run"), *options]
    with ExitStack() as held:
        peers: dict[int, subprocess.Popen[str]] = {}
        for node in nodes:
            peers[node] = commands.start(*words, "--node-from", "RANK", environment={"RANK": str(node)})
            held.callback(peers[node].kill)
            wait_for(f"peer {node}: announces tcp://127.0.0.1:", peers[node])
        yield peers


def wait_for(text: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    assert process.stderr is not None
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()}")


def order(seed: int) -> list[int]:
    return random.Random(seed).sample(range(RING.n), RING.n)


def test_by_folder_in_random_order_with_own_keys(tmp_path: Path, launched: Path) -> None:
    options = ["--rendezvous", str(tmp_path / "meet"), "--keys", str(tmp_path / "keys"), "--announce", "127.0.0.1"]
    with started(tmp_path, order(7), *options) as peers:
        for peer in peers.values():
            _, err = peer.communicate(timeout=SECONDS)
            assert (peer.returncode, err) == (0, "")
    check_same_bits(tmp_path / "run", launched, RING)
    assert list((tmp_path / "meet").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [f"{peer}.key" for peer in range(4)]


def test_by_service_in_random_order_with_keys_and_token_and_collected_by_it(tmp_path: Path, launched: Path) -> None:
    save_topology(RING, tmp_path / "ring.graphml")
    make_keys(tmp_path / "ring.graphml", tmp_path / "keys")
    ring = load_topology(tmp_path / "ring.graphml")
    serve = [str(tmp_path / "ring.graphml"), "--token-file", token_file(tmp_path), "--bind", "tcp://127.0.0.1:*"]
    service = commands.start("rendezvous", *serve, "--records", str(tmp_path / "kept"))
    try:
        how = wait_for("start the peers with: ", service).partition("start the peers with: ")[2]
        collect = wait_for("collect their records with: p2pfl ", service).partition("with: p2pfl ")[2]
        options = [*shlex.split(how), "--keys", str(tmp_path / "keys"), "--rendezvous-run", "job 7"]
        with started(tmp_path, order(8), *options, ring=ring) as peers:
            for peer in peers.values():
                _, err = peer.communicate(timeout=SECONDS)
                assert (peer.returncode, err) == (0, "")
        assert main(shlex.split(collect.replace(" DIR", f" {tmp_path / 'all'}"))) == 0
        service.send_signal(signal.SIGTERM)
        out, err = service.communicate(timeout=30)
        assert (service.returncode, err) == (130, "p2pfl: interrupted\n")
    finally:
        service.kill()
        service.communicate()
    assert out.count("announces tcp://127.0.0.1:") == 4
    assert out.count("has left") == 4
    assert "all 4 peers have announced themselves" in out
    check_same_bits(tmp_path / "run", launched, RING)
    for name in ("rounds.jsonl", "sketches.f32", "log.txt", "shard.json", "run.id", "incarnation"):
        for folder in (tmp_path / "run" / "peers").iterdir():
            assert (tmp_path / "all" / "peers" / folder.name / name).read_bytes() == (folder / name).read_bytes()
    assert summarize(tmp_path / "all")["status"] == "complete"
    assert not list((tmp_path / "kept").rglob("*.safetensors")), "no weights pass through it"


def test_a_peer_that_never_comes_is_named(tmp_path: Path) -> None:
    meet = str(tmp_path / "meet")
    options = ["--rendezvous", meet, "--token-file", token_file(tmp_path), "--insecure", "--start-timeout", "10"]
    with started(tmp_path, [0, 1], *options, "--announce", "127.0.0.1") as peers:
        err = peers[0].communicate(timeout=SECONDS)[1]
        assert peers[0].returncode == 1
        [line] = err.splitlines()
        assert line.startswith(
            "p2pfl: peer 0: no greeting for 10 s from peer 3 (--start-timeout); looked for peer 3 (no"
        )
        assert "peer 3 (no address announced); have all the same file, options, and keys or token?" in line


def test_a_killed_peer_that_is_resumed_is_found_at_its_new_address(tmp_path: Path, launched: Path) -> None:
    options = ["--rendezvous", str(tmp_path / "meet"), "--token-file", token_file(tmp_path), "--insecure"]
    options += ["--announce", "127.0.0.1"]
    with started(tmp_path, [0, 3], *options) as first:
        wait_for("peer 0: peer 3 is at tcp://127.0.0.1:", first[0])
        first[3].kill()
        first[3].communicate()
        assert (tmp_path / "meet" / "3.json").exists(), "nobody has withdrawn it"
        again = commands.start("peer", "--resume", str(tmp_path / "run"), "--node", "3", "--announce", "127.0.0.1")
        try:
            wait_for("peer 0: peer 3 has moved from tcp://127.0.0.1:", first[0])
            with started(tmp_path, [1, 2], *options) as rest:
                for peer in (first[0], *rest.values()):
                    _, err = peer.communicate(timeout=SECONDS)
                    assert (peer.returncode, err) == (0, "")
                _, err = again.communicate(timeout=SECONDS)
                assert (again.returncode, "no checkpoint; begins at round 1" in err) == (0, True), err
        finally:
            again.kill()
            again.communicate()
    check_same_bits(tmp_path / "run", launched, RING)
