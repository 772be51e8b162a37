"""Estimate of a run's needs: the same numbers as the run's own modules give."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import pytest
import torch
from tests.support.helpers import matrix
from tests.support.plans import plan_runs
from torch import nn

from p2pfl.algorithms.choco import Choco
from p2pfl.algorithms.compression import Compression
from p2pfl.cli import main
from p2pfl.cli.describe import describe_run
from p2pfl.config import RunConfig, compression_choice, replace_options
from p2pfl.data import describe
from p2pfl.errors import ConfigError
from p2pfl.experiment.checks import check_plan
from p2pfl.experiment.plan import CompareOptions
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles, topology_of
from p2pfl.preflight.checkpoints import check_each_round, checkpoints_kept
from p2pfl.preflight.estimate import Estimate, check_run, check_settings, disk_space_needed, estimate
from p2pfl.preflight.gpus import BARE_CONTEXT_BYTES, CONTEXT_BYTES, WORKSPACE_BYTES, Activations, GpuUse, gpu_need
from p2pfl.run.directory import create_run_dir
from p2pfl.topology import Topology, consensus_rounds, make_topology
from p2pfl.training import initial_model


def digits(**options: object) -> RunConfig:
    return RunConfig.of(dataset="digits", width=0.125, **options)


def needs(kind: str, n: int, **options: object) -> Estimate:
    config = digits(**options)
    return estimate(assign_roles(config, make_topology(kind, n)), config)


def test_numbers_are_those_of_the_parts() -> None:
    w = matrix("star", 5)
    config = digits(rounds=7, local_epochs=2, wire_dtype="bf16")
    found = estimate(assign_roles(config, make_topology("star", 5)), config)
    model = initial_model(config, 10)
    layout = Layout.of(model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.vector_bytes == 2 * layout.size
    assert found.weights_memory == 12 * layout.size
    assert found.bytes_per_round == 8 * found.vector_bytes  # four edges, both ways
    assert found.busiest_bytes_per_round == 4 * found.vector_bytes
    assert found.training_bytes == 7 * found.bytes_per_round
    assert found.consensus_rounds == consensus_rounds(w, 1e-3)
    assert found.consensus_bytes == found.consensus_rounds * 8 * 4 * layout.size
    assert found.smallest_shard == found.train_samples // 5
    assert found.steps_per_round == 2 * (found.smallest_shard // 32)
    assert found.rounds == 7
    assert found.classes == 10


def test_what_optimizer_and_averaged_momentum_need() -> None:
    """AdamW has one more vector of state; averaged momentum travels."""
    topology = make_topology("ring", 4)
    plain, adamw, averaged = (
        digits(model="user_models:linear", rounds=9, **options)
        for options in ({}, {"optimizer": "adamw", "lr": 0.001}, {"average_momentum": True})
    )
    found = [estimate(assign_roles(config, topology), config) for config in (plain, adamw, averaged)]
    whole = found[0].vector_bytes
    assert [one.weights_memory // whole for one in found] == [3, 4, 3]
    assert [one.bytes_per_round // whole for one in found] == [8, 8, 16]
    assert [one.consensus_bytes for one in found] == [found[0].consensus_bytes] * 3
    assert found[2].exchange_memory - found[0].exchange_memory >= 2 * whole
    layout = Layout.of(initial_model(plain, 10))
    disk = [disk_space_needed(assign_roles(plain, topology), one, layout) for one in (plain, adamw, averaged)]
    assert [(need - disk[0]) // whole for need in disk] == [0, 9, 18], "two checkpoints a peer, and one more"
    texts = [describe_run(topology, config) for config in (plain, adamw)]
    assert ["weights, gradient and two moments" in text for text in texts] == [False, True]
    noted = describe_run(topology, digits(model="user_models:linear", optimizer="adamw"))
    assert "note:        --lr 0.02 is large for AdamW" in noted
    assert "large for AdamW" not in "".join(texts)


def test_a_schedule_counts_the_vectors_of_its_rounds() -> None:
    """Two, two, one, two and two edges in the five rounds of a period."""
    topology = make_topology("base-k", 5)
    config = digits(mixing="weights")
    found = estimate(assign_roles(config, topology), config)
    assert found.bytes_per_round == round(18 / 5 * found.vector_bytes)
    assert (found.consensus_rounds, found.consensus_bytes) == (5, 18 * found.vector_bytes)
    assert not found.notes
    assert "a schedule of 5 graphs, exact average after 5 rounds" in describe_run(topology, config)
    plain = digits()
    (note,) = estimate(assign_roles(plain, topology), plain).notes
    assert "--mixing weights would average exactly in 5 rounds, by the weights in base-2-5" in note
    assert "a schedule of 5 graphs, spectral gap 0." in describe_run(topology, plain)
    kept = [
        disk_space_needed(assign_roles(digits(mixing=mixing, rounds=20), one), digits(rounds=20), layout)
        for layout in [Layout.of(initial_model(config, 10))]
        for mixing, one in [("weights", topology), ("metropolis-hastings", make_topology("ring", 5))]
    ]
    assert kept[0] > 2 * kept[1], "older checkpoints for neighbors that may be further behind"


def test_the_memory_of_push_sums_shares_is_bounded_by_the_neighbors_of_a_long_period() -> None:
    """Two for each of three out-neighbors, at most one for each graph."""
    options = {"algorithm": "push-sum", "mixing": "column-stochastic", "model": "user_models:linear", "rounds": 3}
    config = digits(**options)
    found = [
        estimate(assign_roles(config, make_topology("random-matching", 4, period=period)), config)
        for period in (3, 20, 60)
    ]
    assert found[1].exchange_memory == found[2].exchange_memory
    assert found[1].exchange_memory - found[0].exchange_memory == 4 * found[0].vector_bytes


@pytest.mark.parametrize("compression", ["sign", "top-k:0.1", "top-k:1"])
def test_the_first_payload_of_compressed_exchanges_is_whole(compression: str) -> None:
    """Two neighbors of each of four peers, over three rounds."""
    config = digits(algorithm="choco", compression=compression, rounds=3)
    found = estimate(assign_roles(config, make_topology("ring", 4)), config)
    layout = Layout.of(initial_model(config, 10))
    choco = Choco(Compression(*compression_choice(compression)), 0.5, layout.buffers)
    first, later = choco.encodings["x"].lengths(layout.size)
    assert (first > later) == (compression != "top-k:1"), "indices and values of all take twice the bytes"
    assert found.bytes_per_round == 8 * later
    assert found.training_bytes == 8 * (first + 2 * later)


def test_exchanges_after_a_training_multiply_bytes_and_what_a_checkpoint_holds() -> None:
    once, thrice = needs("ring", 4), needs("ring", 4, gossip_steps=3)
    assert thrice.bytes_per_round == 3 * once.bytes_per_round
    assert thrice.busiest_bytes_per_round == 3 * once.busiest_bytes_per_round
    assert thrice.consensus_bytes == once.consensus_bytes
    assert needs("ring", 4, gossip_steps=9).exchange_memory > once.exchange_memory
    assert needs("ring", 4, gossip_steps=9, checkpoint=False).exchange_memory == once.exchange_memory
    ring = make_topology("ring", 4)
    layout = Layout.of(initial_model(digits(), 10))
    disk = [
        disk_space_needed(assign_roles(config, ring), config, layout)
        for config in (digits(), digits(gossip_steps=4), digits(gossip_steps=4, checkpoint=False))
    ]
    assert disk[0] < disk[1] == 2 * (disk[0] - disk[2]) + disk[2], "six vectors in place of three"
    assert "4 peers, spectral gap 0.6667, 3 exchanges after each training" in describe_run(ring, digits(gossip_steps=3))
    base = make_topology("base-k", 5)
    text = describe_run(base, digits(gossip_steps=5, mixing="weights"))
    assert "a schedule of 5 graphs, exact average after 5 exchanges, 5 exchanges after each training" in text


def test_memory_does_not_grow_with_the_degree_but_does_with_the_batch() -> None:
    few, many = (needs("complete", n) for n in (5, 9))
    assert few.exchange_memory == many.exchange_memory
    # What training sent last, two averages besides the model, and the four vectors that may be under way.
    assert few.exchange_memory == few.vector_bytes + (2 + 4) * few.weights_memory // 3
    double = needs("complete", 5, batch_size=64)
    assert few.activations_memory > 32 * 8 * 32 * 32 * 4  # the first convolution's output is kept
    assert double.activations_memory == pytest.approx(2 * few.activations_memory, rel=0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd")
def test_what_neighbors_read_in_shared_memory_is_counted() -> None:
    """Three rounds of a vector, or of as many as neighbors where each gets another."""
    shared, sockets = needs("ring", 4), needs("ring", 4, transport="ipc")
    assert shared.shared_memory == 3 * shared.vector_bytes
    assert sockets.shared_memory == needs("ring", 4, keys="keys").shared_memory == 0
    assert shared.exchange_memory == sockets.exchange_memory
    config = digits(algorithm="relay-sum")
    star = estimate(assign_roles(config, make_topology("star", 5)), config)
    assert star.shared_memory == 3 * 4 * star.vector_bytes
    lonely = RunConfig.of(mode="local", dataset="digits", width=0.125)
    assert estimate(assign_roles(lonely, make_topology("ring", 4)), lonely).shared_memory == 0
    texts = [describe_run(make_topology("ring", 4), digits(transport=name)) for name in ("auto", "ipc")]
    assert ["shared with neighbors" in text for text in texts] == [True, False]


@pytest.mark.parametrize("mode", ["gossip", "local"])
def test_rounds_of_whole_epochs_are_tried_out(mode: str) -> None:
    """The trial of the model takes one step, whatever a round is."""
    options = {
        "mode": mode,
        "dataset": "digits",
        "width": 0.125,
        "partition": "dirichlet:0.5",
        "round_length": "epochs",
    }
    config = RunConfig.of(**options)
    found = estimate(assign_roles(config, make_topology("ring", 4)), config)
    assert found.largest_shard > found.smallest_shard


SHARD = 1438 // 4  # samples of a peer of four

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 5000},
            f"--batch-size 5000: a peer's shard has {SHARD} samples in the mean; choose 1 to ",
        ),
        ({"batch_size": SHARD + 1}, f"--batch-size {SHARD + 1}: a peer's shard has {SHARD} samples"),
        ({"model": "vgg12"}, "--model vgg12"),
        pytest.param({"device": "cuda"}, "--device cuda: there is no GPU that PyTorch can use", marks=NO_GPU),
        ({"device": "cuda:99"}, "--device cuda:99: PyTorch sees "),
        (
            {"model": "tests.unit.preflight.test_estimate:fails_on_images"},
            "--model tests.unit.preflight.test_estimate:fails_on_images: fails on a training ba",
        ),
        (
            {"model": "tests.unit.preflight.test_estimate:too_many"},
            "--model tests.unit.preflight.test_estimate:too_many: returns (32, 11) for 32 images in training",
        ),
        (
            {"model": "tests.unit.preflight.test_estimate:one_image"},
            "--model tests.unit.preflight.test_estimate:one_image: returns (10,) for 32 images",
        ),
    ],
)
def test_what_the_run_would_refuse_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        needs("ring", 4, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


GB = 1_000_000_000


def test_processes_that_share_a_gpu_must_fit() -> None:
    GpuUse(2 * GB, {"cuda:0": 4, "cuda:1": 3}, {"cuda:0": 8 * GB, "cuda:1": 9 * GB}).check()
    with pytest.raises(ConfigError) as caught:
        GpuUse(2 * GB, {"cuda:0": 4, "cuda:1": 3}, {"cuda:0": 8 * GB, "cuda:1": 5 * GB}).check()
    assert str(caught.value) == (
        "cuda:1: 3 processes of this run need 6.0 GB (2.0 GB each), and 5.0 GB are free, enough for 2; choose fewer "
        "peers a GPU, a smaller --batch-size or --width, --precision bf16, or --device cpu"
    )
    with pytest.raises(ConfigError, match=r"^cuda:0: 1 process of this run need 2.0 GB, and 1.0 GB are free, enough f"):
        GpuUse(2 * GB, {"cuda:0": 1}, {"cuda:0": GB}).check()


def test_what_a_process_needs_of_a_gpu() -> None:
    few = Activations(kept=10_000, largest=100)
    least = CONTEXT_BYTES + WORKSPACE_BYTES
    whole = 1_000_000
    base = gpu_need(digits(batch_size=32), whole, few, 0)
    assert base == least + 3 * whole + 32 * (10_000 + 3 * 100) + 2 * whole
    assert gpu_need(digits(batch_size=32), whole, few, 1000) == base + 1000 * (3072 + 48)
    assert gpu_need(digits(batch_size=64), whole, few, 0) == base + 32 * (10_000 + 3 * 100)
    assert gpu_need(digits(batch_size=32, precision="bf16"), whole, few, 0) == base - 16 * 10_300 + whole // 2
    assert gpu_need(digits(batch_size=32, proximal_mu=0.1), whole, few, 0) == base + 2 * whole
    assert gpu_need(digits(batch_size=32, optimizer="adamw"), whole, few, 0) == base + whole
    wide = Activations(kept=10_000, largest=5_000)  # an evaluation's batch then needs more than the first step's copies
    assert gpu_need(digits(batch_size=32), whole, wide, 0) == base - 2 * whole + 32 * 3 * 4_900 + 256 * 3 * 5_000


def on_gpus(monkeypatch: pytest.MonkeyPatch, free: dict[str, int]) -> None:
    """As if this machine had GPUs with so many bytes free."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 100 * GB))


def test_peers_are_counted_on_the_gpus_that_they_will_use(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpus(monkeypatch, {"cuda:0": 9 * GB, "cuda:1": 10 * GB})
    found = needs("ring", 5).gpu
    assert found is not None
    assert found.processes == {"cuda:0": 3, "cuda:1": 2}
    assert found.free == {"cuda:0": 9 * GB + BARE_CONTEXT_BYTES, "cuda:1": 10 * GB + BARE_CONTEXT_BYTES}
    assert CONTEXT_BYTES + WORKSPACE_BYTES < found.need < 2 * GB
    topology = make_topology("ring", 3)
    topology.graph.nodes[1]["device"] = "cpu"
    topology.graph.nodes[2]["device"] = "cuda:0"
    placed = estimate(assign_roles(digits(), topology), digits()).gpu
    assert placed is not None
    assert placed.processes == {"cuda:0": 2}
    assert needs("ring", 5, device="cpu").gpu is None
    with pytest.raises(ConfigError, match=r"^cuda:0: 13 processes of this run need .* GB are free, enough for \d+; "):
        needs("ring", 25)
    topology.graph.nodes[1]["device"] = "cuda:7"
    with pytest.raises(ConfigError, match=r"^device cuda:7 in the topology file: PyTorch sees 2 GPUs here"):
        estimate(assign_roles(digits(), topology), digits())


def test_a_peer_alone_needs_its_own_device_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = make_topology("ring", 3)
    topology.graph.nodes[0]["device"] = "cpu"
    topology.graph.nodes[1]["device"] = "cuda:7"  # of another machine
    config = digits(rounds=5, model="user_models:linear")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "gpu memory" not in describe_run(topology, config, index=0)
    for index in (None, 1):
        with pytest.raises(ConfigError, match=r"^device cuda:7 in the topology file: PyTorch sees 0 GPUs here"):
            describe_run(topology, config, index=index)
    on_gpus(monkeypatch, {"cuda:0": 9 * GB})
    found = check_run(assign_roles(config, topology), config, 2).gpu
    assert found is not None
    assert found.processes == {"cuda:0": 1}
    topology.graph.nodes[1]["device"] = "cpu"
    parts = assign_roles(config, topology)
    layout = Layout.of(initial_model(config, 10))
    own, all_peers = (disk_space_needed(parts, config, layout, index) for index in (1, None))
    free = (own + all_peers) // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    describe_run(topology, config, index=1)
    with pytest.raises(ConfigError, match=r"^--run-dir runs: the run will write at least"):
        describe_run(topology, config)
    describe_run(topology, config, begins=False)


def test_a_resumed_run_has_written_already_what_the_disk_needs_room_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = make_topology("ring", 3)
    for peer in range(3):
        ring.graph.nodes[peer].update(host="127.0.0.1", port=7000 + peer)
    config = digits(model="user_models:linear", insecure=True, run_dir=str(tmp_path / "run"))
    run_dir = create_run_dir(ring, config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    for words in (["gossip"], ["peer", "--node", "1"]):
        assert main([*words, "--resume", str(run_dir), "--dry-run"]) == 0
        new = [str(run_dir / "topology.graphml"), "--config", str(run_dir / "config.toml"), "--dry-run"]
        assert main([*words, *new]) == 2
        assert "the run will write at least" in capsys.readouterr().err

    planned = plan_runs(config, CompareOptions((ring,), sgd=True))
    (tmp_path / planned[0].name).mkdir()
    check_plan(tmp_path, planned[0], lambda *_: None)
    with pytest.raises(ConfigError, match="the run will write at least"):
        check_plan(tmp_path / "new", planned[0], lambda *_: None)


def test_a_gpu_that_cannot_be_asked_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: str) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nor unavailable")

    on_gpus(monkeypatch, {"cuda:0": GB})
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    with pytest.raises(ConfigError, match=r"^device cuda:0: cannot be used \(.* busy or unavailable\); choose another"):
        needs("ring", 4)


def test_a_dry_run_says_what_it_needs_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = make_topology("ring", 4)
    assert "gpu memory" not in describe_run(topology, digits(device="cpu"))
    on_gpus(monkeypatch, {"cuda:0": 50 * GB})
    text = describe_run(topology, digits())
    assert re.search(
        r"^gpu memory: +1\.\d GB per process; 4 processes on cuda:0, which has 50\.[56] GB free$", text, re.M
    )


def test_a_batch_may_be_the_whole_shard() -> None:
    found = needs("ring", 4, batch_size=SHARD)
    assert found.steps_per_round == 1


def test_check_refuses_more_peers_than_samples_and_returns_the_model() -> None:
    info = describe("digits", None)
    with pytest.raises(
        ConfigError, match=f"^--dataset digits: {info.train_samples:,} samples for 5,000 peers; use fewer peers$"
    ):
        check_settings(digits(batch_size=1), 5000, info)
    model, expected = check_settings(digits(), 4, info).model.state_dict(), initial_model(digits(), 10).state_dict()
    assert model.keys() == expected.keys()
    assert all(torch.equal(model[name], expected[name]) for name in expected)


class Scores(nn.Module):
    """Scores of any shape, whatever the images."""

    def __init__(self, per_image: bool, count: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, count)
        self.per_image = per_image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(x.flatten(1))
        return scores if self.per_image else scores[0]


def too_many(num_classes: int) -> nn.Module:
    return Scores(True, num_classes + 1)


def one_image(num_classes: int) -> nn.Module:
    return Scores(False, num_classes)


def fails_on_images(num_classes: int) -> nn.Module:
    return nn.Linear(7, num_classes)


def test_what_a_mode_without_a_mesh_needs() -> None:
    config = RunConfig.of(mode="centralized", num_clients=6, num_selected=2, dataset="digits", width=0.125)
    star = topology_of(config)
    assert star is not None
    found = estimate(assign_roles(config, star), config)
    assert found.bytes_per_round == 4 * found.vector_bytes  # two models out, two updates back
    assert found.busiest_bytes_per_round == 2 * found.vector_bytes
    assert found.consensus_bytes == found.consensus_rounds == 0
    assert found.smallest_shard == found.train_samples // 6
    lonely = RunConfig.of(mode="local", dataset="digits", width=0.125)
    alone = estimate(assign_roles(lonely, make_topology("ring", 4)), lonely)
    assert alone.bytes_per_round == alone.exchange_memory == alone.consensus_bytes == 0


def test_a_dry_run_tells_what_is_held_back() -> None:
    config = digits(validation=0.1)
    text = describe_run(make_topology("ring", 4), config)
    assert "digits: 1,294 training, 144 validation and 359 test samples, 10 classes; 323 per peer\n" in text
    assert "shard 0" not in text, "equal shards need no list"
    found = needs("ring", 4, validation=0.1)
    assert (found.smallest_shard, found.largest_shard, found.steps_per_round) == (323, 324, 10)
    text = describe_run(make_topology("ring", 4), digits(validation=0.1, test=False, partition="quantity:square"))
    assert "1,294 training, 144 validation samples; the test set is not used, 10 classes; " in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 0.0001}, "--validation 0.0001: no sample would be held back, of 1,438; choose a larger"),
        (
            {"validation": 0.9999},
            "--validation 0.9999: no sample would be left to train on, of 1,438;",
        ),
        (
            {"validation": 0.9, "batch_size": 40},
            r"--batch-size 40: a peer's shard has 36 samples in the mean \(without the 1,294 held back\)",
        ),
        (
            {"validation": 0.999},
            "--validation 0.999: of 1,438 it leaves 1 sample for 4 peers; choose a smaller fraction",
        ),
    ],
)
def test_what_leaves_too_little_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        needs("ring", 4, **options)


def test_classes_without_a_validation_sample_are_named() -> None:
    """So few samples that not every class has one."""
    (note,) = (note for note in needs("ring", 4, validation=0.003).notes if "validation" in note)
    assert re.fullmatch(r"--validation 0\.003: no validation sample of class \d, \d, \d, \d, \d and 1 more", note)


def test_plain_sgd_reads_the_file_of_a_partition(tmp_path: Path) -> None:
    config = RunConfig.of(mode="sgd", dataset="digits", width=0.125, partition=f"file:{tmp_path / 'split.json'}")
    alone = topology_of(config)
    assert alone is not None
    (tmp_path / "split.json").write_text('{"0": [1, 2, 70000]}')
    with pytest.raises(ConfigError, match="there is no sample 70000; there are 1,438"):
        describe_run(alone, config)
    (tmp_path / "split.json").write_text(json.dumps({"a": list(range(99)), "b": [1000]}))
    found = estimate(assign_roles(config, alone), config)
    assert (found.smallest_shard, found.steps_per_round) == (100, 3)


def test_disk_with_rounds_between_two_checkpoints() -> None:
    """A ring of 16 may be eight rounds apart; more in the overlapped order.

    Of twenty rounds the last is saved beside those of every three or eight.
    """
    ring, row = make_topology("ring", 16), make_topology("path", 2)
    options: list[tuple[dict[str, object], Topology, int]] = [
        ({}, ring, 2),
        ({"checkpoint_every": 8}, ring, 3),
        ({"checkpoint_every": 8, "order": "overlapped"}, ring, 3),
        ({"checkpoint_every": 2}, ring, 5),
        ({"checkpoint_every": 2, "gossip_steps": 4}, ring, 2),
        ({"checkpoint_every": 2}, row, 2),
        ({"checkpoint_every": 3}, row, 3),
        ({"checkpoint_every": 50}, ring, 1),
    ]
    for changes, topology, kept in options:
        config = digits(rounds=20, **changes)
        found = estimate(assign_roles(config, topology), config)
        assert found.checkpoints_kept == kept, changes
        each = f"every {changes['checkpoint_every']} rounds" if changes else "after each round"
        assert f"checkpoints {each}, {kept} kept of a process" in describe_run(topology, config)
    none = digits(checkpoint=False)
    assert estimate(assign_roles(none, ring), none).checkpoints_kept == 0
    assert describe_run(ring, none).endswith("MB; no checkpoints")


def test_how_far_peers_may_be_apart_is_found_soon_in_a_large_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process asks for it when it starts."""
    monkeypatch.setattr(nx, "diameter", lambda graph: pytest.fail("a search from every peer, over all links"))
    config = digits(checkpoint_every=3)
    assert checkpoints_kept(assign_roles(config, make_topology("complete", 210)), config) == 2


def test_what_rounds_between_two_checkpoints_do_not_fit() -> None:
    pushing = digits(algorithm="push-sum", mixing="column-stochastic", checkpoint_every=3, restart=1)
    with pytest.raises(
        ConfigError, match=r"^--checkpoint-every 3: a peer that --restart .*; choose 1, or --restart 0$"
    ):
        describe_run(make_topology("ring", 4), pushing)
    for allowed in (replace_options(pushing, restart=0), replace_options(pushing, checkpoint=False)):
        describe_run(make_topology("ring", 4), allowed)
    with pytest.raises(
        ConfigError, match=r"^--checkpoint-every 3: peers that are started one by one .*--no-checkpoint$"
    ):
        check_each_round(digits(checkpoint_every=3))
    check_each_round(digits(checkpoint_every=3, checkpoint=False))
    with pytest.raises(ConfigError, match="--checkpoint-every 0"):
        digits(checkpoint_every=0)
