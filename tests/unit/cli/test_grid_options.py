"""Lists on the command line and in settings files of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.cli.grid_options import refuse_values_beside, seed_numbers, take_lists, tuned_values
from p2pfl.config import load_toml, split_values
from p2pfl.errors import ConfigError


def test_lists_are_taken_and_their_first_values_stay() -> None:
    words, lists = take_lists(["ring.gml", "--algorithm", "dpsgd,quasi-global", "--partition=iid,dirichlet:.5"])
    assert words == ["ring.gml", "--algorithm", "dpsgd", "--partition=iid"]
    assert lists == {"algorithm": ("dpsgd", "quasi-global"), "partition": ("iid", "dirichlet:0.5")}
    assert take_lists(["--rounds", "3"]) == (["--rounds", "3"], {})
    assert take_lists(["--algorithm"]) == (["--algorithm"], {}), "the parser says that a value is missing"


@pytest.mark.parametrize(
    ("option", "text", "named"),
    [
        ("algorithm", "dpsgd,", "a value is empty"),
        ("algorithm", "dpsgd,other", "--algorithm other: choose one of dpsgd"),
        ("algorithm", "dpsgd,dpsgd", "names a value twice"),
        ("partition", "dirichlet:0.5,dirichlet:.5", "names a value twice"),
        ("partition", "iid,classes:0", "--partition classes:0: K must be"),
    ],
)
def test_values_that_cannot_be_are_refused(option: str, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        split_values(option, text)


def test_a_comma_in_a_path_is_no_list(tmp_path: Path) -> None:
    file = tmp_path / "a,b.csv"
    file.write_text("")
    assert split_values("partition", f"file:{file}") == (f"file:{file}",)
    assert split_values("partition", "file:a,b.csv", tmp_path) == (f"file:{file}",)


def test_settings_files_have_lists_for_a_comparison_only(tmp_path: Path) -> None:
    path = tmp_path / "base.toml"
    path.write_text('partition = "iid,file:split.csv"\n[gossip]\nalgorithm = "dpsgd,median"\n')
    lists: dict[str, tuple[str, ...]] = {}
    config = load_toml(path, None, lists)
    assert lists == {"algorithm": ("dpsgd", "median"), "partition": ("iid", f"file:{tmp_path / 'split.csv'}")}
    assert (config.gossip.algorithm, config.data.partition) == ("dpsgd", "iid")
    with pytest.raises(ConfigError, match=r"iid,file:split\.csv: choose one value; only p2pfl compare takes several"):
        load_toml(path)


@pytest.mark.parametrize("option", ["--algorithm", "--partition", "--seeds", "--num-selected"])
def test_a_list_given_twice_is_refused(option: str) -> None:
    words = [option, "1", f"{option.replace('-s', '_s')}=2"] if option == "--num-selected" else [option, "iid"] * 2
    with pytest.raises(ConfigError, match=f"^{option}: given twice; name all values in one list, such as {option} "):
        take_lists(words)


def test_too_large_a_seed_is_refused_under_the_option_that_was_given() -> None:
    assert seed_numbers("0,9223372036854775807", 0, []) == (0, 2**63 - 1)
    with pytest.raises(ConfigError, match=r"^--seeds 9{30}…9{29}: seeds must be at most 9,223,372,036,854,775,807$"):
        seed_numbers("9" * 500, 0, [])


def test_values_to_tune_are_sorted() -> None:
    assert tuned_values("lr=.2,0.05,1e-1") == {"lr": (0.05, 0.1, 0.2)}
    assert tuned_values("lr=.1,weight-decay=0,5e-4") == {"lr": (0.1,), "weight_decay": (0.0, 0.0005)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (".1,.2", "write it as lr=0.05,0.1,0.2; tunable are lr, momentum, weight-decay"),
        ("rounds=1,2", "write it as lr="),
        ("lr=", "an empty value is no number"),
        ("lr=.1,", "an empty value is no number"),
        ("lr=.1,x", "x is no number"),
        ("lr=.1,nan", "nan is no number"),
        ("lr=.1,0.1", "names a value twice"),
        ("lr=.1,lr=.2", "names lr twice"),
    ],
)
def test_tuning_that_cannot_be_is_refused(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tuned_values(text)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tune", "lr=.1,.2", "--tune", "momentum=0,.9"], "--tune: given twice; name all options in one list"),
        (["--tune=lr=.1,.2", "--lr=0.3"], "--lr: has no effect beside --tune lr=…; omit one of them"),
        (["--weight_decay", "0", "--tune", "lr=.1,weight-decay=0,.1"], "--weight-decay: has no effect beside --tune"),
    ],
)
def test_values_that_tuning_would_drop_are_refused(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        refuse_values_beside({"lr": (0.1, 0.2), "weight_decay": (0.0, 0.1)}, words)


def test_options_that_are_not_tuned_may_stand_beside_a_list() -> None:
    refuse_values_beside({"lr": (0.1, 0.2)}, ["--tune", "lr=.1,.2", "--momentum", "0.8", "--lrx"])
