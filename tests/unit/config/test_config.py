"""Settings: TOML out and in again, one clear line for whatever cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.paths import ROOT

from p2pfl.config import (
    LOCAL_OPTIONS,
    RESUME_OVERRIDES,
    SECTIONS,
    RunConfig,
    check_together,
    foreign_options,
    load_toml,
    options,
    replace_options,
    to_toml,
)
from p2pfl.errors import ConfigError

PROMISED = """rounds local-epochs local-steps batch-size lr momentum weight-decay schedule model width dataset data-dir
    partition algorithm mixing order device precision wire-dtype transport seed eval-every run-dir reset-momentum"""

ALL_SET = RunConfig.of(
    "/topologies/ring-4.graphml",
    model="vgg13",
    width=0.5,
    norm="none",
    dataset="digits",
    data_dir='a "quoted" folder',
    local_steps=7,
    lr=0.3,
    momentum=0.0,
    schedule="cosine",
    order="overlapped",
    wire_dtype="bf16",
    transport="tcp",
    device="cuda:3",
    threads=2,
    seed=9,
    eval_every=3,
    name="São Paulo, zweiter Lauf",
    run_dir="runs/ünïcode",
    checkpoint=False,
)


def load(folder: Path, text: str) -> RunConfig:
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return load_toml(file)


@pytest.mark.parametrize("config", [RunConfig(), ALL_SET], ids=["defaults", "all set"])
def test_toml_round_trip(tmp_path: Path, config: RunConfig) -> None:
    assert load(tmp_path, to_toml(config)) == config


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(1e-12, 1e12),
    seed=st.integers(0, 2**62),
    run_dir=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_toml_round_trip_of_any_value(tmp_path_factory: pytest.TempPathFactory, **values: object) -> None:
    config = RunConfig.of(**values)
    assert load(tmp_path_factory.mktemp("config"), to_toml(config)) == config


def test_promised_options_exist_and_have_help() -> None:
    assert {name.replace("-", "_") for name in PROMISED.split()} <= options(RunConfig()).keys()
    lengths = RunConfig().training
    assert (lengths.local_epochs, lengths.local_steps) == (None, None), "1 epoch where neither is given"
    names = [item.name for kind in SECTIONS.values() for item in dataclasses.fields(kind)]
    assert len(names) == len(set(names)), "an option's name must be unique: the command line has no sections"
    assert set(names) >= RESUME_OVERRIDES | LOCAL_OPTIONS


def test_options_may_stand_at_the_top_of_the_file(tmp_path: Path) -> None:
    short = load(tmp_path, 'topology = "t.gml"\nmodel = "vgg16"\nrounds = 3\nlr = 1\n[record]\nseed = 4\n')
    assert short == RunConfig.of(str(tmp_path / "t.gml"), model="vgg16", rounds=3, lr=1.0, seed=4)
    assert isinstance(short.training.lr, float)


@pytest.mark.parametrize(
    ("written", "meant"), [("t.gml", "{0}/t.gml"), ("sub/t.gml", "{0}/sub/t.gml"), ("/abs/t.gml", "/abs/t.gml")]
)
def test_the_topology_path_starts_at_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path, f'topology = "{written}"').topology == meant.format(tmp_path)


def test_a_file_without_a_topology_names_none(tmp_path: Path) -> None:
    assert load(tmp_path, "rounds = 3").topology is None


def test_replacing_leaves_the_rest_and_the_original_alone() -> None:
    changed = replace_options(ALL_SET, rounds=5)
    assert options(changed) == {**options(ALL_SET), "rounds": 5}
    assert changed.topology == ALL_SET.topology
    assert ALL_SET.training.rounds == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roundz = 3", r"no option 'roundz'; did you mean rounds\? Known are .*\brounds\b"),
        ("[trainin]\nrounds = 3", r"no section \[trainin\]; did you mean training\? Known are model, data"),
        ("[training]\nroundz = 3", r"\[training\] has no option 'roundz'"),
        ("[training]\nseed = 3", r"\[training\] has no option 'seed'"),
        ('rounds = "three"', r": --rounds 'three': expected int, got str$"),
        ("rounds = 2.5", r": --rounds 2\.5: expected int, got float$"),
        ("rounds = true", r": --rounds True: expected int, got bool$"),
        ("model = 3", r": --model 3: expected str, got int$"),
        ("[training]\nreset_momentum = 1", r": --reset-momentum 1: expected bool, got int$"),
        ('[model]\nnorm = "layer"', r": --norm 'layer': invalid enum value 'layer'$"),
        (
            "[model]\nbatch_norm = true",
            r"\[model\] has no option 'batch_norm'; .* replaced by norm, which is batch, group",
        ),
        ("batch_norm = false", r": batch_norm has been replaced by norm, which is batch, group or none$"),
        ("[record]\nname = 4", r": --name 4: expected str.*, got int$"),
        ('local_epochs = "2"', r": --local-epochs '2': expected int.*, got str$"),
        ('schedule = "linear"', r": --schedule 'linear': invalid enum value 'linear'$"),
        ("local_epochs = 2\nlocal_steps = 3", r": --local-epochs 2: --local-steps 3 is set too; choose one$"),
        ("local_epochs = 0", "--local-epochs 0: must be greater than 0"),
        ("rounds = 0", "--rounds 0: must be greater than 0"),
        ("local_steps = -1", "--local-steps -1: must be greater than 0"),
        ("lr = nan", "--lr nan: must be a finite number"),
        ("lr = inf", "--lr inf: must be a finite number"),
        ("momentum = 1.0", "--momentum 1.0: must be below 1"),
        ("weight_decay = -0.1", "--weight-decay -0.1: must be 0 or more"),
        ("consensus_tolerance = 1.0", "--consensus-tolerance 1.0: must lie between 0 and 1"),
        ("round_timeout = 0", "--round-timeout 0.*: must be greater than 0"),
        ("seed = -1", "--seed -1: must be 0 or more"),
        ('device = "gpu"', "--device gpu: choose auto, cpu, cuda or cuda:0"),
        ('device = "cuda:x"', "--device cuda:x: choose"),
        ("topology = 3", "topology: must be the path"),
        ('mode = "star"', "mode 'star': choose one of gossip, centralized, sgd, local"),
        ("server_momentum = 1.0", "--server-momentum 1.0: must be below 1"),
        ("deadline = 0", "--deadline 0.*: must be greater than 0"),
        ("rounds = ", "not TOML"),
    ],
)
def test_refusals_name_the_file_and_the_option(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'settings.toml'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch_norm", "norm"), [("true", "batch"), ("false", "none")])
def test_a_run_directory_of_an_older_version_is_understood(tmp_path: Path, batch_norm: str, norm: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[model]\nwidth = 0.5\nbatch_norm = {batch_norm}\n[training]\nrounds = 3\n")
    assert load_toml(path, is_recorded=True) == RunConfig.of(width=0.5, norm=norm, rounds=3)
    path.write_text("rounds = 3")
    assert load_toml(path, is_recorded=True) == RunConfig.of(rounds=3)


def test_shipped_settings_say_what_they_promise() -> None:
    tutorial = load_toml(ROOT / "configs" / "fedavg-tutorial.toml", "centralized")
    assert (tutorial.centralized.num_clients, tutorial.centralized.num_selected) == (20, 6)
    assert (tutorial.training.rounds, tutorial.training.local_epochs, tutorial.training.batch_size) == (150, 5, 32)
    for path in set((ROOT / "configs").glob("*.toml")) - set((ROOT / "configs").glob("faults-*.toml")):
        config = load_toml(path)
        assert foreign_options(config) == {}, path
        assert config.topology is None or Path(config.topology).is_file()


def test_the_mode_is_kept_and_others_are_refused(tmp_path: Path) -> None:
    config = RunConfig.of(mode="centralized", num_clients=4, num_selected=2, min_updates=1, deadline=2.5)
    text = to_toml(config)
    assert load(tmp_path, text) == config
    assert "mixing" not in text, "what means nothing in a mode is not written"
    with pytest.raises(ConfigError, match=r"settings\.toml: holds settings of p2pfl centralized, not of p2pfl gossip"):
        load_toml(tmp_path / "settings.toml", "gossip")


def test_options_go_by_the_names_of_their_mode(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text("num_rounds = 7\nepochs = 3\n")
    training = load_toml(tmp_path / "short.toml", "centralized").training
    assert (training.rounds, training.local_epochs) == (7, 3)
    (tmp_path / "sgd.toml").write_text("[training]\nepochs = 3\n")
    assert load_toml(tmp_path / "sgd.toml", "sgd").training.rounds == 3
    with pytest.raises(ConfigError, match="no option 'epochs'"):
        load_toml(tmp_path / "sgd.toml", "gossip")
    (tmp_path / "twice.toml").write_text("num_rounds = 7\n[training]\nrounds = 7\n")
    with pytest.raises(ConfigError, match=r"twice\.toml: rounds stands twice"):
        load_toml(tmp_path / "twice.toml", "centralized")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_selected": 30}, "--num-selected 30: there are only 20 clients"),
        ({"min_updates": 7}, "--min-updates 7: only 6 clients train in a round"),
    ],
)
def test_sections_must_fit_each_other_in_the_end(options: dict[str, int], message: str) -> None:
    config = RunConfig.of(mode="centralized", **options)
    with pytest.raises(ConfigError, match=message):
        check_together(config)
    check_together(replace_options(config, num_clients=40, num_selected=30))


def test_options_of_another_mode_are_found() -> None:
    assert foreign_options(RunConfig.of(mode="sgd", mixing="uniform", proximal_mu=0.1, lr=0.3)) == {
        "mixing": "uniform",
        "proximal_mu": 0.1,
    }
    assert foreign_options(RunConfig.of(mode="centralized", proximal_mu=0.1)) == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read"):
        load_toml(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml: not TOML"):
        load_toml(tmp_path / "binary.toml")


def test_refusals_of_options_given_in_python() -> None:
    with pytest.raises(ConfigError, match="no option 'epochs'"):
        RunConfig.of(epochs=3)
    with pytest.raises(ConfigError, match=r"^batch_norm has been replaced by norm, which is batch, group or none$"):
        RunConfig.of(batch_norm=False)
    with pytest.raises(ConfigError, match=r"^--batch-size '32': expected int, got str$"):
        RunConfig.of(batch_size="32")
    with pytest.raises(ConfigError, match=r"^--local-epochs 2: --local-steps 3 is set too; choose one$"):
        replace_options(RunConfig.of(local_steps=3), local_epochs=2)


@pytest.mark.parametrize("given", [{"local_epochs": 2}, {"local_steps": 3}])
def test_a_round_may_be_given_in_epochs_or_in_steps(given: dict[str, int]) -> None:
    training = RunConfig.of(**given).training
    assert {"local_epochs": training.local_epochs, "local_steps": training.local_steps} == {
        "local_epochs": None,
        "local_steps": None,
        **given,
    }


def _numeric_options() -> list[str]:
    kinds = {name: kind for section in SECTIONS.values() for name, kind in get_type_hints(section).items()}
    return [name for name, kind in kinds.items() if {int, float} & {kind, *get_args(kind)}]


@pytest.mark.parametrize("option", _numeric_options())
def test_no_number_is_beyond_what_a_run_can_hold(option: str, tmp_path: Path) -> None:
    for value in ("inf", "-inf", "nan", "1e300", "-1", "1" + "0" * 31, "9" * 5000):
        with pytest.raises(ConfigError, match=r"settings\.toml: ") as error:
            load(tmp_path, f"{option} = {value}")
        assert len(str(error.value).splitlines()) == 1
        assert len(str(error.value)) < 400
    with pytest.raises(ConfigError, match=f"^--{option.replace('_', '-')} ") as error:
        RunConfig.of(**{option: 10**5000})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 5000, "lr = [" + "{a = " * 5000, f"rounds = {'9' * 5000}", "x = 2020-99-99"]
)
def test_toml_that_its_parser_gives_up_on_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.toml: not TOML"):
        load(tmp_path, text)


@pytest.mark.parametrize("option", ["name", "run_dir", "data_dir", "keys", "dataset", "model", "faults"])
@pytest.mark.parametrize("character", ["\0", "\x1b", "\n", "\ud800"])
def test_text_that_no_file_can_hold_is_refused(option: str, character: str) -> None:
    with pytest.raises(ConfigError, match="has control characters") as error:
        RunConfig.of(**{option: f"x{character}y"})
    assert str(error.value).isprintable()
