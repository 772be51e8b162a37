"""Trial of a model: refuses what a run could not use or save, accepts the rest."""

from __future__ import annotations

from pathlib import Path

import odd_models
import pytest
import torch
from safetensors.torch import load_file
from tests.support import commands
from torch import nn

from p2pfl import make_topology
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.model.global_state import settings_now
from p2pfl.model.networks import build_model
from p2pfl.model.vector import Layout, aligned_vector
from p2pfl.preflight.estimate import check_disk
from p2pfl.preflight.trial import check_model
from p2pfl.report import check_drawing
from p2pfl.run.directory import check_results
from p2pfl.run.tensor_file import save_tensors
from p2pfl.topology import save_topology
from p2pfl.training import initial_model
from p2pfl.training.step import host_draws

CLASSES = 10


def config(name: str, **options: object) -> RunConfig:
    return RunConfig.of(**{"model": f"odd_models:{name}", "dataset": "digits", "batch_size": 8, **options})


def refusal(name: str, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check_model(config(name, **options), CLASSES)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "precision"),
    [(build.__name__, "fp32") for build in odd_models.SOUND] + [("lazy", "bf16"), ("spectral_norm", "bf16")],
)
def test_sound_models_pass_and_nothing_is_left_changed(
    name: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = settings_now(), host_draws()
    model = check_model(config(name, precision=precision), CLASSES).model
    assert (settings_now(), host_draws()) == before
    assert capsys.readouterr() == ("", "")
    expected = initial_model(config(name), CLASSES).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items()), "not trained"


def test_a_trial_uses_as_many_threads_as_a_process_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    class Watched(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(images.flatten(1))

    monkeypatch.setattr(odd_models, "watched", lambda num_classes: Watched(3 * 32 * 32, num_classes), raising=False)
    check_model(config("watched", threads=3), CLASSES)
    assert seen == {3}
    seen.clear()
    check_model(config("watched"), CLASSES)
    assert seen == {1}


@pytest.mark.parametrize("name", odd_models.BROKEN)
def test_broken_models_are_refused_in_one_line(name: str) -> None:
    before = settings_now()
    line = refusal(name)
    assert line.startswith(f"--model odd_models:{name}: ")
    assert odd_models.BROKEN[name][1] in line
    assert "\n" not in line
    assert settings_now() == before


def test_parameters_without_a_gradient_are_noted() -> None:
    def notes(name: str, classes: int = CLASSES) -> tuple[str, ...]:
        return check_model(config(name), classes).notes

    assert notes("plain") == notes("partly_frozen") == notes("tied") == ()
    (line,) = notes("detached_features")
    assert line == (
        "--model odd_models:detached_features: no gradient reached 4 of 6 trainable parameters (first.weight, "
        "first.bias, second.weight, …) in the trial's training step; freeze them (requires_grad_(False)) if "
        "that is meant"
    )
    assert "reached 2 of 8 trainable parameters (spare.weight, spare.bias) in" in notes("unused")[0]
    assert notes("plain", 1) == (), "with one class every gradient is zero"


@pytest.mark.parametrize("name", odd_models.NOTED)
def test_models_that_learn_badly_or_keep_state_elsewhere_are_noted(name: str) -> None:
    (note,) = check_model(config(name), CLASSES).notes
    assert note.startswith(f"--model odd_models:{name}: ")
    assert odd_models.NOTED[name][1] in note


def test_models_of_which_nothing_is_said() -> None:
    for build in (*odd_models.SOUND, *odd_models.UNNOTED):
        notes = check_model(config(build.__name__), CLASSES).notes
        assert not [note for note in notes if "no gradient reached" not in note]
    for options in (
        {},
        {"norm": "none"},
        {"norm": "group"},
        {"norm": "none", "precision": "bf16"},
        {"precision": "bf16"},
    ):
        assert check_model(RunConfig.of(dataset="digits", batch_size=2, width=0.05, **options), CLASSES).notes == ()


def test_a_module_in_place_of_a_function_is_refused() -> None:
    assert "is a module; name a function that builds one" in refusal("module")


def test_the_runs_own_batch_is_tried() -> None:
    check_model(config("_batch_norm_1d", batch_size=2), CLASSES)
    assert "fails on a training batch of 1 image: ValueError: Expected more than 1 value" in refusal(
        "_batch_norm_1d", batch_size=1
    )


def test_a_batch_larger_than_the_trials_is_tried_by_shapes() -> None:
    check_model(config("up_to_256", batch_size=256), CLASSES)
    assert (
        "fails on a training batch of 257 images: AssertionError: too many images (it does not with 32 images)"
        in refusal("up_to_256", batch_size=257)
    )


def test_lazy_layers_begin_as_those_whose_sizes_are_said() -> None:
    lazy, eager = (initial_model(config(name), CLASSES) for name in ("lazy", "eager"))
    assert Layout.of(lazy) == Layout.of(eager)
    assert all(module.training for module in lazy.modules())
    again = initial_model(config("lazy"), CLASSES).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in lazy.state_dict().items())
    assert int(lazy[1].num_batches_tracked) == 0
    other = initial_model(config("lazy", seed=1), CLASSES)
    assert not torch.equal(other[5].weight, lazy[5].weight)


@pytest.mark.parametrize("name", ["tied", "tied_module", "tied_buffers"])
def test_tied_tensors_count_once_and_are_saved_under_each_name(name: str, tmp_path: Path) -> None:
    model = initial_model(config(name), CLASSES)
    layout = Layout.of(model)
    vector = aligned_vector(layout.size)
    layout.bind(model, vector)
    keys = model.state_dict().keys()
    assert len(layout.slots) < len(keys)
    vector.add_(1.0)  # what an exchange does with the model
    save_tensors(tmp_path / "model.safetensors", model.state_dict(), {})
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == keys
    fresh = build_model(f"odd_models:{name}", num_classes=CLASSES, norm="batch", width=1.0)
    fresh.load_state_dict(saved)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(fresh.float().eval()(images), model.eval()(images))


def test_a_run_for_which_the_disk_has_no_room_is_refused() -> None:
    check_disk(config("plain", run_dir="not/there/yet"), 1)
    with pytest.raises(
        ConfigError, match=r"^--run-dir not/there/yet: the run will write at least .* MB are free; make"
    ):
        check_disk(config("plain", run_dir="not/there/yet"), 1 << 60)


def test_a_report_that_cannot_be_drawn_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_drawing()

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such\nbackend")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    monkeypatch.setenv("MPLBACKEND", "none-such")
    with pytest.raises(
        ConfigError, match=r"^MPLBACKEND=none-such: the report cannot be drawn \(ValueError: no such ba"
    ):
        check_drawing()
    monkeypatch.delenv("MPLBACKEND")
    with pytest.raises(ConfigError, match=r"^matplotlib: the report cannot be drawn"):
        check_drawing()


def test_results_that_a_resumed_run_could_not_write_are_said_at_its_start(tmp_path: Path) -> None:
    check_results(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "consensus.safetensors").mkdir()
    with pytest.raises(
        ConfigError, match=r"consensus\.safetensors: is a folder, where the run will write a file; move"
    ):
        check_results(tmp_path)
    with pytest.raises(ConfigError, match=r"gone: cannot be written \(No such file or directory\)"):
        check_results(tmp_path / "gone")


# Whole runs

TINY = "--dataset digits --batch-size 8 --lr 0.01 --local-steps 2 --rounds 2 --threads 1"


@pytest.fixture
def ring(tmp_path: Path) -> str:
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    return str(tmp_path / "ring.graphml")


@pytest.mark.processes
def test_a_tied_model_is_trained_saved_and_resumed(tmp_path: Path, ring: str) -> None:
    run_dir = tmp_path / "run"
    words = ["gossip", ring, *TINY.split(), "--model", "odd_models:tied", "--run-dir", str(run_dir)]
    assert commands.run(*words).returncode == 0
    path = run_dir / "consensus.safetensors"
    whole, bits = load_file(path), path.read_bytes()
    model = build_model("odd_models:tied", num_classes=CLASSES, norm="batch", width=1.0)
    model.load_state_dict(whole)
    assert torch.equal(whole["twin.weight"], whole["second.weight"])
    assert isinstance(model.twin, nn.Linear)
    assert model.twin.weight is model.second.weight
    path.unlink()
    (run_dir / "summary.json").unlink()
    assert commands.run("gossip", "--resume", str(run_dir)).returncode == 0
    assert path.read_bytes() == bits


@pytest.mark.processes
def test_dry_run_and_run_refuse_by_the_same_line_and_leave_nothing(tmp_path: Path, ring: str) -> None:
    topology = make_topology("ring", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=7100 + peer)
    save_topology(topology, tmp_path / "peers.graphml")
    one = ["peer", str(tmp_path / "peers.graphml"), "--node", "0", "--insecure"]
    options = [*TINY.split(), "--model", "odd_models:late_pair", "--run-dir", str(tmp_path / "run")]
    lines = set()
    for command in (["gossip", ring, "--dry-run"], ["gossip", ring], ["compare", ring, "--sgd"], one):
        done = commands.run(*command, *options)
        assert done.returncode == 2, done.stderr
        assert not (tmp_path / "run").exists()
        lines.add(done.stderr.partition(": ")[2])
    assert len(lines) == 1, lines
    line = lines.pop()
    assert "returns a tuple of 1 in evaluation mode" in line
    assert line.count("\n") == 1
