"""Initial weights from a file (--init): refusals, and all peers start from them."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from tests.support import commands
from tests.support.paths import ROOT
from tests.support.plans import plan_runs
from tests.support.real_run import Run
from torch import nn

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import CompareOptions
from p2pfl.model.weights_file import weights_digest
from p2pfl.modes import assign_roles
from p2pfl.run.directory import create_run_dir, open_run_dir, with_kept_files
from p2pfl.run.fingerprint import run_fingerprint, shared_settings
from p2pfl.run.records import read_rounds
from p2pfl.run.settings import resolve
from p2pfl.training import initial_model
from p2pfl.training.weights import load_initial

RING = str(ROOT / "topologies" / "ring-4.graphml")
SMALL: dict[str, Any] = {"model": "user_models:linear", "dataset": "digits", "rounds": 2, "local_steps": 2}


class Net(nn.Module):
    """Two names of one weight, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.tensor(3))


WHOLE = {"first.weight": torch.ones(2, 2), "second.weight": torch.ones(2, 2), "count": torch.tensor(7)}


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in WHOLE.items() if key != name}


WRONG: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "missing": (without("first.weight"), "lacks 'first.weight'; choose a file of the same --model"),
    "several missing": ({"count": WHOLE["count"]}, "lacks 'first.weight' and 1 more; choose"),
    "unknown": ({**WHOLE, "a\n\x1bb": torch.ones(1)}, r"has an unknown 'a\n\x1bb'; choose"),
    "both": ({**without("count"), "b": torch.ones(1)}, "lacks 'count' and has an unknown 'b'; choose"),
    "shape": ({**WHOLE, "first.weight": torch.ones(2, 3)}, "'first.weight' has the shape (2, 3), and (2, 2) in the"),
    "half": ({**WHOLE, "first.weight": torch.ones(2, 2).half()}, "'first.weight' is F16; p2pfl keeps float32"),
    "double": ({**WHOLE, "first.weight": torch.ones(2, 2).double()}, "'first.weight' is F64; p2pfl keeps float32"),
    "bfloat16": ({**WHOLE, "first.weight": torch.ones(2, 2).bfloat16()}, "'first.weight' is BF16; p2pfl keeps"),
    "whole numbers": ({**WHOLE, "first.weight": torch.ones(2, 2).long()}, "'first.weight' is torch.int64, and torch.f"),
    "not finite": ({**WHOLE, "second.weight": torch.tensor([[1, 1], [1, np.nan]])}, "'second.weight' has numbers that"),
    "torn": ({**WHOLE, "first.weight": torch.zeros(2, 2)}, "'first.weight' shares its weights with another name"),
    "empty": ({}, "holds no tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit_is_refused_by_the_names_of_its_tensors(tmp_path: Path, name: str) -> None:
    tensors, reason = WRONG[name]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        load_initial(Net(), str(tmp_path / "w.safetensors"))
    assert str(caught.value).startswith(f"--init {tmp_path / 'w.safetensors'}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("weights")
    elif kind == "cut":
        save_file(WHOLE, path)
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"^--init .*w\.safetensors: ") as caught:
        weights_digest(path)
    assert "\n" not in str(caught.value)


def test_every_tensor_of_the_model_is_that_of_the_file(tmp_path: Path) -> None:
    save_file(WHOLE, tmp_path / "w.safetensors")
    net = Net()
    load_initial(net, str(tmp_path / "w.safetensors"))
    assert net.count == 7
    assert net.second.weight is net.first.weight
    assert torch.equal(net.first.weight, torch.ones(2, 2))
    config = RunConfig.of(width=0.0625)
    other = initial_model(RunConfig.of(width=0.0625, seed=5), 4)
    save_file(other.state_dict(), tmp_path / "vgg.safetensors")
    made = initial_model(RunConfig.of(width=0.0625, init=str(tmp_path / "vgg.safetensors")), 4)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values(), strict=True))
    assert not torch.equal(made.state_dict()["classifier.4.weight"], initial_model(config, 4).classifier[4].weight)


def test_the_content_of_the_file_counts_and_neither_its_path_nor_what_else_it_says(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    save_file(WHOLE, tmp_path / "a.safetensors", metadata={"rounds": "1"})
    save_file(WHOLE, tmp_path / "b.safetensors")
    save_file({**WHOLE, "count": torch.tensor(8)}, tmp_path / "c.safetensors")
    found = []
    for name in ("a", "b", "c", None):
        config = RunConfig.of(**SMALL, init=name and str(tmp_path / f"{name}.safetensors"))
        found.append(run_fingerprint(assign_roles(config, topology), config))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_run_directory_keeps_a_copy_with_which_it_is_resumed_and_repeated(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    for name, count in (("w", 1), ("other", 2)):
        save_file({"x": torch.full((3,), count)}, tmp_path / f"{name}.safetensors")
    config = RunConfig.of(**SMALL, init=str(tmp_path / "w.safetensors"), run_dir=str(tmp_path / "run"))
    config = resolve(config, topology, 1)
    run_dir = create_run_dir(topology, config)
    assert 'init = "initial.safetensors"' in (run_dir / "config.toml").read_text()
    before = run_fingerprint(assign_roles(config, topology), config)
    (tmp_path / "w.safetensors").unlink()
    for saved in (open_run_dir(run_dir)[1], with_kept_files(config, run_dir)):
        assert saved.training.init == str(run_dir / "initial.safetensors")
        assert run_fingerprint(assign_roles(saved, topology), saved) == before
    with pytest.raises(ConfigError, match="was started with other weights; leave it out to continue with those"):
        with_kept_files(RunConfig.of(init=str(tmp_path / "other.safetensors")), run_dir)


def test_a_process_reads_the_initial_weights_of_a_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = make_topology("ring", 3)
    save_file({"x": torch.ones(3)}, tmp_path / "w.safetensors")
    config = RunConfig.of(**SMALL, init=str(tmp_path / "w.safetensors"), run_dir=str(tmp_path / "run"))
    run_dir = create_run_dir(topology, config)
    read: list[str] = []
    real = safetensors.safe_open

    def counted(path: Any, **options: Any) -> Any:
        read.append(str(path))
        return real(path, **options)

    monkeypatch.setattr("safetensors.safe_open", counted)
    saved = open_run_dir(run_dir)[1]
    config = with_kept_files(resolve(saved, topology, 1), run_dir)
    digests = {shared_settings(config)["init"] for _ in range(3)}
    assert read == [str(run_dir / "initial.safetensors")]
    save_file({"x": torch.zeros(3)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").replace(read[0])
    assert shared_settings(config)["init"] not in digests, "another file of the same size"


def test_all_modes_of_a_comparison_start_from_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "w.safetensors")
    save_file({"x": torch.ones(3)}, path)
    wanted = CompareOptions((make_topology("ring", 3),), num_selected=(2,), sgd=True, local=True)
    planned = plan_runs(RunConfig.of(**{**SMALL, "init": path, "batch_size": 8}), wanted)
    assert {one.config.mode for one in planned} == {"gossip", "centralized", "sgd", "local"}
    assert {one.config.training.init for one in planned} == {path}


def test_a_wrong_file_is_refused_before_anything_is_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["gossip", RING, "--dataset", "digits", "--width", "0.0625", "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--init", str(tmp_path / "none.safetensors"), "--dry-run"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    save_file({"x": torch.ones(3)}, tmp_path / "w.safetensors")
    assert main([*words, "--init", str(tmp_path / "w.safetensors"), "--dry-run"]) == 2
    assert "lacks 'features.0.weight'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.processes
def test_a_run_starts_from_an_earlier_model_and_is_resumed_when_its_file_is_gone(tmp_path: Path) -> None:
    words = ["gossip", RING, "--dataset", "digits", "--model", "user_models:linear", "--local-steps", "2"]
    words += ["--lr", "0.01", "--threads", "1", "--rounds"]
    first, whole = tmp_path / "first", tmp_path / "whole"
    assert commands.run(*words, "1", "--run-dir", str(first)).returncode == 0
    init = first / "consensus.safetensors"
    assert commands.run(*words, "40", "--init", str(init), "--run-dir", str(whole)).returncode == 0
    shutil.copy(init, tmp_path / "gone.safetensors")
    cut = Run(tmp_path / "cut", *words, "40", "--init", str(tmp_path / "gone.safetensors"))
    try:
        cut.until("round 2/")
        (tmp_path / "gone.safetensors").unlink()
        cut.process.send_signal(signal.SIGINT)
        assert cut.end()[0] == 130
        again = Run(tmp_path / "cut", "gossip", "--resume", str(cut.run_dir), fresh=False)
        assert again.end()[0] == 0
    finally:
        cut.kill()
    models = [load_file(run_dir / "consensus.safetensors") for run_dir in (whole, cut.run_dir, first)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["layer.weight"], models[2]["layer.weight"])
    # The first round's loss is that of a model which has learned already.
    began = [read_rounds(run_dir / "peers" / "0")[0].train_loss or 0.0 for run_dir in (whole, first)]
    assert began[0] < 0.9 * began[1]
