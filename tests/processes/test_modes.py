"""Centralized, SGD and local runs match other modes that must give the same."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support import commands
from tests.support.saved_runs import other_version

from p2pfl import RunConfig, data, make_topology, run_swarm
from p2pfl.experiment.run import Result, run
from p2pfl.protocol.server_exchange import Federation, select_clients
from p2pfl.run import checkpoint
from p2pfl.run.paths import checkpoint_name
from p2pfl.run.records import RoundRecord, read_rounds
from p2pfl.topology import Topology, save_topology
from p2pfl.training import Trainer

pytestmark = pytest.mark.usefixtures("blank_plots")

LIVELY = {
    "dataset": "digits",
    "model": "vgg11",
    "width": 0.125,
    "rounds": 3,
    "local_steps": 2,
    "batch_size": 16,
    "lr": 0.02,
    "threads": 1,
    "eval_samples": 32,
}


def train(folder: Path, mode: str, topology: Topology | None = None, **options: object) -> Result:
    return run(RunConfig.of(mode=mode, **{**LIVELY, **options}, run_dir=str(folder)), topology)  # type: ignore[arg-type]


def model_of(result: Result) -> dict[str, torch.Tensor]:
    return load_file(result.run_dir / "consensus.safetensors")


def vectors_of(result: Result, topology: Topology, rounds: int) -> torch.Tensor:
    folders = [result.run_dir / "peers" / topology.node_path(peer) / "checkpoint" for peer in range(topology.n)]
    return torch.stack([checkpoint.load(folder / f"round-{rounds:06d}.safetensors").x for folder in folders])


def coordinator_records(run_dir: Path) -> list[RoundRecord]:
    return read_rounds(run_dir / "peers" / "coordinator")


def averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that are averaged; `num_batches_tracked` stays local."""
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.processes
def test_fedavg_with_all_clients_is_gossip_on_the_full_mesh(tmp_path: Path) -> None:
    mesh = make_topology("complete", 4)
    gossip = train(tmp_path / "gossip", "gossip", mesh, mixing="uniform")
    central = train(tmp_path / "central", "centralized", num_clients=4, num_selected=4)
    peers = vectors_of(gossip, mesh, 3)
    coordinator = central.run_dir / "peers" / "coordinator" / "checkpoint"
    start = checkpoint.load(coordinator / "round-000002.safetensors").x
    found = checkpoint.load(coordinator / "round-000003.safetensors").x
    moved = (found - start).norm()
    assert moved > 1e-3 * start.norm()
    assert (peers - found).norm(dim=1).max() <= 1e-5 * moved
    same = [name for name in ("samples_total", "optimizer_steps_per_peer", "peers") if gossip.summary[name]]
    assert {name: central.summary[name] for name in same} == {name: gossip.summary[name] for name in same}
    assert len(same) == 3


@pytest.mark.processes
def test_fedavg_with_one_client_is_sgd_on_its_shard(tmp_path: Path) -> None:
    central = train(tmp_path / "central", "centralized", num_clients=1, num_selected=1)
    alone = train(tmp_path / "sgd", "sgd")
    ours, theirs = averaged(model_of(central)), averaged(model_of(alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert central.summary["consensus_accuracy"] == alone.summary["consensus_accuracy"]
    assert central.summary["samples_total"] == alone.summary["samples_total"] == 3 * 2 * 16


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [{}, {"server_momentum": 0.9, "wire_dtype": "bf16"}, {"proximal_mu": 0.1, "averaging": "samples"}],
    ids=["FedAvg", "FedAvgM, bf16", "FedProx by size"],
)
def test_a_repeated_run_draws_the_same_clients_and_ends_with_the_same_bits(
    tmp_path: Path, options: dict[str, object]
) -> None:
    sizes = {"num_clients": 5, "num_selected": 2, "rounds": 4, **options}
    first = train(tmp_path / "first", "centralized", **sizes)
    second = train(tmp_path / "second", "centralized", **sizes, transport="tcp")
    ours, theirs = model_of(first), model_of(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    federation = Federation(weights=[1.0] * 5, selected=2, seed=0, min_updates=1)
    drawn = [[str(client) for client in select_clients(federation, number)] for number in range(1, 5)]
    for result in (first, second):
        records = coordinator_records(result.run_dir)
        assert [record.selected for record in records] == drawn
        assert all(record.missing == [] for record in records)
        assert [record.samples for record in records] == [64, 128, 192, 256]
        assert all(record.test_accuracy is not None for record in records), "evaluated every round"
    took_part = {client: [n for n, row in enumerate(drawn, start=1) if client in row] for client in "01234"}
    for client, rounds in took_part.items():
        assert [record.round for record in read_rounds(first.run_dir / "peers" / client)] == rounds


@pytest.mark.processes
def test_options_change_the_model(tmp_path: Path) -> None:
    """Momentum, proximal term, server's rate and number of clients have an effect."""
    variants = [{}, {"server_momentum": 0.5}, {"server_lr": 0.5}, {"proximal_mu": 1.0}, {"num_selected": 1}]
    variants.append({"averaging": "samples"})  # the digits' shards are of 480, 479 and 479 samples
    models = []
    for number, options in enumerate(variants):
        sizes = {"num_clients": 3, "num_selected": 3, "rounds": 2, **options}
        models.append(averaged(model_of(train(tmp_path / str(number), "centralized", **sizes))))
    for number, model in enumerate(models):
        for other in models[:number]:
            assert any(not torch.equal(model[name], other[name]) for name in model)


@pytest.mark.processes
def test_the_proximal_term_holds_the_model_back(tmp_path: Path) -> None:
    moved = []
    for number, mu in enumerate((0.0, 1.0, 10.0)):
        options = {"num_clients": 1, "num_selected": 1, "rounds": 1, "local_steps": 8, "proximal_mu": mu}
        options |= {"schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
        result = train(tmp_path / str(number), "centralized", **options, norm="none")
        start = averaged(initial_state())
        found = averaged(model_of(result))
        moved.append(float(sum(((found[name] - start[name]) ** 2).sum() for name in found)) ** 0.5)
    assert moved[0] > moved[1] > moved[2] > 0


def initial_state() -> dict[str, torch.Tensor]:
    from p2pfl.training import initial_model

    return initial_model(RunConfig.of(**{**LIVELY, "norm": "none"}), 10).state_dict()


@pytest.mark.processes
def test_local_peers_are_trainers_that_nobody_talks_to(tmp_path: Path) -> None:
    ring = make_topology("ring", 3)
    config = RunConfig.of(mode="local", **LIVELY, run_dir=str(tmp_path / "local"))
    local = run(config, ring)
    dataset = data.load(data.prepare("digits", None, lambda *_: None))
    shards = data.partition(data.Request("iid", dataset.train_labels.numpy(), tuple("012"), 0, 10)).shards
    for peer, found in enumerate(vectors_of(local, ring, 3)):
        trainer = Trainer(config, dataset, shards[peer], torch.device("cpu"), peer)
        for number in (1, 2, 3):
            trainer.train(number, lambda steps: None, lambda: False)
        assert torch.equal(found, trainer.vector), "nothing but its own steps has moved a peer"
    assert local.summary["bytes_sent_total"] == 0
    assert local.summary["consensus_accuracy"] is None
    assert local.summary["consensus_distance"] > 0
    assert not (local.run_dir / "consensus.safetensors").exists()
    assert local.summary["status"] == "complete"


FAST = shlex.split(
    "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --threads 1 --num-clients 4 --num-selected 2 "
    "--server-momentum 0.5 --local-steps 2 --num-rounds 60 --eval-samples 20"
)


@pytest.mark.processes
@pytest.mark.parametrize("in_time", [True, False])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, in_time: bool) -> None:
    """Also where a client stopped before saving the round that the coordinator saved."""
    whole = commands.run("centralized", *FAST, "--run-dir", str(tmp_path / "whole"))
    assert whole.returncode == 0
    started = commands.start("centralized", *FAST, "--run-dir", str(tmp_path / "cut"))
    assert started.stdout is not None
    assert any("round 5/" in line for line in started.stdout)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert f"p2pfl centralized --resume {tmp_path / 'cut'}" in err
    assert 5 <= len(coordinator_records(tmp_path / "cut")) < 60
    last = coordinator_records(tmp_path / "cut")[-1]
    if not in_time:
        client = tmp_path / "cut" / "peers" / (last.selected or [""])[0]
        for path in client.glob("checkpoint/round-*.safetensors"):
            if path.name >= f"round-{last.round:06d}":  # it may have saved the next round, which is undone
                path.unlink()
    resumed = commands.run("centralized", "--resume", str(tmp_path / "cut"))
    assert resumed.returncode == 0
    whole_model, cut_model = (load_file(tmp_path / name / "consensus.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole_model[name], cut_model[name]) for name in whole_model)
    ours, theirs = (coordinator_records(tmp_path / name) for name in ("whole", "cut"))
    assert [(r.round, r.selected, r.samples, r.train_loss) for r in ours] == [
        (r.round, r.selected, r.samples, r.train_loss) for r in theirs
    ]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("mode", "options"),
    [("centralized", {"num_clients": 3, "num_selected": 2}), ("sgd", {}), ("local", {}), ("gossip", {})],
)
def test_a_run_cut_off_at_its_very_end_does_its_last_round_again(
    tmp_path: Path, mode: str, options: dict[str, object]
) -> None:
    """All rounds recorded and saved, but killed before the summary."""
    ring = make_topology("ring", 3) if mode in ("gossip", "local") else None
    whole = train(tmp_path / "whole", mode, ring, **options)
    records = {path.parent.name: len(read_rounds(path.parent)) for path in whole.run_dir.glob("peers/*/rounds.jsonl")}
    vectors = {
        p.relative_to(whole.run_dir): checkpoint.load(p).x for p in whole.run_dir.glob("peers/*/checkpoint/*3.*")
    }
    assert vectors
    model = model_of(whole) if mode != "local" else {}
    (whole.run_dir / "summary.json").unlink()
    (whole.run_dir / "consensus.safetensors").unlink(missing_ok=True)
    again = run(RunConfig.of(mode=mode, **{**LIVELY, **options}), ring, resume=whole.run_dir)  # type: ignore[arg-type]
    assert again.summary["status"] == "complete"
    assert again.summary["rounds_completed"] == 3
    for name, count in records.items():
        assert len(read_rounds(whole.run_dir / "peers" / name)) == count
    assert all(torch.equal(checkpoint.load(whole.run_dir / path).x, x) for path, x in vectors.items())
    if mode != "local":
        assert all(
            torch.equal(tensor, model_of(again)[name]) for name, tensor in model.items() if "batches" not in name
        )


@pytest.mark.processes
def test_a_local_peer_whose_checkpoints_are_not_to_be_had(tmp_path: Path) -> None:
    """Checkpoints of another version end the run; missing ones restart the peer.

    What it had recorded is kept.
    """
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    words = ["--dataset", "digits", "--model", "user_models:linear", "--batch-size", "8", "--threads", "1"]
    words += ["--local-steps", "2", "--rounds", "4", "--run-dir", str(tmp_path / "run")]
    whole = commands.run("local", str(tmp_path / "ring.graphml"), *words)
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "run" / "summary.json").unlink()
    peer = tmp_path / "run" / "peers" / "1"
    saved = {path: path.read_bytes() for path in peer.glob("checkpoint/*")}
    names = ("rounds.jsonl", "sketches.f32")
    recorded = [(peer / name).read_bytes() for name in names]
    for path in saved:
        other_version(path)
    refused = commands.run("local", "--resume", str(tmp_path / "run"))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert f"{min(saved)}: written by another version of p2pfl; resume with that version, or start a new run" in line
    assert "resume with:" not in line
    assert [(peer / name).read_bytes() for name in names] == recorded
    shutil.rmtree(peer / "checkpoint")
    again = commands.run("local", "--resume", str(tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    assert f"its records until round 4 are kept in {peer / 'rounds.jsonl.1'}" in again.stdout
    assert [(peer / f"{name}.1").read_bytes() for name in names] == recorded
    assert [record.round for record in read_rounds(peer)] == [1, 2, 3, 4]
    assert checkpoint.load(peer / "checkpoint" / checkpoint_name(4)).round == 4


@pytest.mark.processes
def test_the_saved_settings_repeat_the_run(tmp_path: Path) -> None:
    first = train(tmp_path / "first", "centralized", num_clients=3, num_selected=2)
    words = ["--config", str(first.run_dir / "config.toml"), "--run-dir", str(tmp_path / "again")]
    done = commands.run("centralized", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = load_file(tmp_path / "again" / "consensus.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in model_of(first).items())
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["mode"] == "centralized"
    assert summary["consensus_accuracy"] == first.summary["consensus_accuracy"]


@pytest.mark.processes
def test_run_swarm_trains_alone_too(tmp_path: Path) -> None:
    config = RunConfig.of(mode="local", **LIVELY, run_dir=str(tmp_path / "run"))
    assert run_swarm(make_topology("ring", 3), config).summary["mode"] == "local"
