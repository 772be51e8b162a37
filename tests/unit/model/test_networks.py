"""VGG as the tutorial has it, its width, and the user's own models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from p2pfl.errors import ConfigError
from p2pfl.model.networks import MODELS, build_model, build_vgg


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def build(name: str, **changes: object) -> nn.Module:
    settings = {"num_classes": 10, "norm": "batch", "width": 0.05, **changes}
    return build_model(name, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "parameters"), [(11, 9_756_426), (19, 20_565_834)])
def test_parameters_of_the_full_models(depth: int, parameters: int) -> None:
    with torch.device("meta"):  # counts need no memory
        assert count(build_vgg(depth)) == parameters


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_vgg_maps_images_to_logits(name: str, norm: str) -> None:
    model = build(name, num_classes=7, norm=norm)
    kinds = [type(module) for module in model.modules()]
    convolutions, linears = kinds.count(nn.Conv2d), kinds.count(nn.Linear)
    assert convolutions + linears == int(name[3:])
    assert kinds.count(nn.BatchNorm2d) == (convolutions if norm == "batch" else 0)
    assert kinds.count(nn.GroupNorm) == (convolutions if norm == "group" else 0)
    assert nn.Dropout not in kinds
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    assert model(images).shape == (2, 7)


def test_width_scales_every_channel_and_the_head() -> None:
    full = [m for m in build_vgg(11).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    half = [m for m in build_vgg(11, width=0.5).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    wide = [m.weight.shape[0] for m in full]
    assert wide == [64, 128, 256, 256, 512, 512, 512, 512, 512, 512, 10]
    assert [m.weight.shape[0] for m in half] == [c // 2 for c in wide[:-1]] + [10]
    thinnest = build_vgg(19, width=1e-6)
    assert thinnest(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("width", "groups"), [(0.0625, {2}), (0.05, {1, 2}), (0.25, {2}), (1.0, {2}), (1e-6, {1})])
def test_group_norms_have_two_groups_or_one_where_channels_are_odd(width: float, groups: set[int]) -> None:
    with torch.device("meta"):
        norms = [
            module for module in build_vgg(19, norm="group", width=width).modules() if isinstance(module, nn.GroupNorm)
        ]
    assert len(norms) == 16
    assert {norm.num_groups for norm in norms} == groups
    assert all((norm.num_groups == 2) == (norm.num_channels % 2 == 0) for norm in norms)


def test_the_norm_changes_no_other_weight() -> None:
    """Runs of a comparison begin with the same convolutions."""
    weights = []
    for norm in ("batch", "group"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights.append(build("vgg11", norm=norm).state_dict())
    assert all(torch.equal(weights[0][name], weight) for name, weight in weights[1].items())


def test_the_callers_seed_decides_the_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(nn.utils.parameters_to_vector(build("vgg11").parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_initialization_is_pytorchs_default() -> None:
    first = build_vgg(11, width=0.25).features[0]
    bound = (1 / (3 * 9)) ** 0.5  # uniform in ±1/sqrt(fan_in); torchvision's VGG class draws normals
    assert 0.8 * bound < first.weight.abs().max() <= bound
    assert first.bias.abs().max() > 0


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_models_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n"
        "def narrow(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, num_classes))\n"
        "def takes_all(**settings):\n"
        "    assert sorted(settings) == ['batch_norm', 'norm', 'num_classes', 'width']\n"
        "    return narrow(settings['num_classes'])\n"
        "def takes_norm(num_classes, norm):\n"
        "    return narrow(num_classes + (norm == 'group'))\n"
        "def takes_batch_norm(num_classes, batch_norm):\n"
        "    return narrow(num_classes + batch_norm)\n"
        "def no_argument():\n"
        "    return narrow(4)\n"
        "def wants_more(num_classes, secret):\n"
        "    return narrow(num_classes)\n"
        "def breaks(num_classes):\n"
        "    raise RuntimeError('first line\\nsecond line')\n"
        "def text(): return 'no module'\n"
        "def empty(): return torch.nn.ReLU()\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    return name


@pytest.mark.parametrize("function", ["narrow", "takes_all", "no_argument"])
def test_own_model_gets_only_what_it_accepts(own: str, function: str) -> None:
    assert count(build(f"{own}:{function}", num_classes=4)) == 3072 * 4 + 4


@pytest.mark.parametrize(
    ("function", "norm", "classes"),
    [
        ("takes_norm", "group", 5),
        ("takes_norm", "none", 4),
        ("takes_batch_norm", "batch", 5),
        ("takes_batch_norm", "none", 4),
    ],
)
def test_own_model_is_told_the_norm(own: str, function: str, norm: str, classes: int) -> None:
    assert count(build(f"{own}:{function}", num_classes=4, norm=norm)) == (3072 + 1) * classes


@pytest.mark.parametrize(("function", "norm"), [("narrow", "none"), ("narrow", "group"), ("takes_batch_norm", "group")])
def test_a_norm_that_own_model_is_not_told_is_refused(own: str, function: str, norm: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^--norm {norm}: the function of --model \S+:{function} takes no argument norm"
    ):
        build(f"{own}:{function}", norm=norm)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wants_more", "secret"),
        ("breaks", "RuntimeError: first line second line"),
        ("text", "returned a str"),
        ("empty", "no floating-point parameter"),
        ("absent", "does not exist"),
        ("number", "not callable"),
        ("", "expected module:function"),
    ],
)
def test_own_model_refusals(own: str, function: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(f"{own}:{function}")
    message = str(caught.value)
    assert message.startswith("--model ")
    assert "\n" not in message


@pytest.mark.parametrize(("name", "words"), [("vgg12", "vgg11, vgg13"), ("no_such_module_here:f", "cannot import")])
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(name)


@pytest.mark.parametrize("changes", [{"width": 0.0}, {"width": float("nan")}, {"num_classes": 0}, {"norm": "layer"}])
def test_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build("vgg11", **changes)


def test_table() -> None:
    assert list(MODELS) == ["vgg11", "vgg13", "vgg16", "vgg19"]
    with pytest.raises(ConfigError, match="vgg12"):
        build_vgg(12)
