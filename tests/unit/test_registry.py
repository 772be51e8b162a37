"""Registries: names lead to objects, options are known without torch.

Everything else is refused.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from p2pfl.config import RunConfig, check_together, is_robust, load_toml, to_toml
from p2pfl.errors import ConfigError
from p2pfl.registry import OWN, TABLES, check, entry_of, load, names_of, summaries_of

NAMES = [(option, name) for option, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("option", "name"), NAMES)
def test_every_name_leads_to_an_object(option: str, name: str) -> None:
    entry = TABLES[option][name]
    assert callable(load(entry))
    assert entry.summary
    assert not entry.summary.endswith(".")
    assert f"{name}" in summaries_of(option)
    check(option, f"{name}:/a/folder" if entry.argument else name)


def test_a_rule_that_tolerates_malicious_inputs_needs_more_of_them_than_of_the_others() -> None:
    for option, name in NAMES:
        entry = TABLES[option][name]
        assert (entry.margin > 0) == entry.tolerates_byzantine


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("algorithm", "dpsdg", "--algorithm dpsdg: choose one of dpsgd, quasi-global, "),
        ("algorithm", "dpsgd:fast", "--algorithm dpsgd:fast: dpsgd takes no argument"),
        ("algorithm", "dpsgd,median", "--algorithm dpsgd,median: choose one value; only p2pfl compare takes several"),
        ("partition", "iid,classes:3", "--partition iid,classes:3: choose one value; only p2pfl compare takes several"),
        ("dataset", "digits,cifar10", "--dataset digits,cifar10: choose one value"),
        ("averaging", "mine:Average", "--averaging mine:Average: choose one of uniform, samples"),
        ("mixing", "lazy", "--mixing lazy: choose one of metropolis-hastings, max-degree, uniform, weights"),
        (
            "partition",
            "dirichle",
            "--partition dirichle: choose one of iid, dirichlet:ALPHA, dirichlet-balanced:ALPHA, ",
        ),
    ],
)
def test_other_values_are_refused_in_one_line(option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.of(**{option: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("partition", "dirichle:0.5", "dirichlet:0.5"),
        ("dataset", "imagefoldr:/data", "imagefolder:/data"),
        ("algorithm", "dpsdg:Class", "dpsgd"),
        ("model", "vgg_11:build", "vgg11"),
    ],
)
def test_a_slip_in_a_name_with_an_argument_is_no_module(option: str, value: str, meant: str) -> None:
    check(option, value)
    with pytest.raises(ConfigError) as caught:
        load(value, f"--{option}")
    module = value.partition(":")[0]
    assert str(caught.value) == f"--{option} {value}: there is no module {module!r}; did you mean {meant}?"


def test_a_module_that_is_there_is_never_taken_for_a_slip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dirichlets.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match="cannot import 'dirichlets': ModuleNotFoundError: No module named 'no_such_module_at_all'"
    ):
        load("dirichlets:deal", "--partition")


def test_arguments_follow_the_name() -> None:
    assert entry_of("dataset", "imagefolder:/data/images") is TABLES["dataset"]["imagefolder"]
    assert entry_of("dataset", "my_code:build") is None
    assert names_of("dataset") == ["cifar10", "digits", "imagefolder:DIR", OWN["dataset"]]


@pytest.mark.parametrize("byzantine", [None, 1])
def test_an_algorithm_of_the_users_is_robust_if_it_is_told_what_to_tolerate(
    tmp_path: Path, byzantine: int | None
) -> None:
    config = RunConfig.of(algorithm="my_code:Algorithm", byzantine=byzantine)
    check_together(config)
    assert is_robust(config) == (byzantine is not None)
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert load_toml(tmp_path / "run.toml") == config


def test_an_object_of_the_users_is_searched_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_registered_code.py").write_text("class Mine: pass\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert load("my_registered_code:Mine", "--algorithm").__name__ == "Mine"
    for spec, words in [("my_registered_code:number", "not callable"), ("my_registered_code:Other", "does not exist")]:
        with pytest.raises(ConfigError, match=f"^--algorithm {spec}: .*{words}"):
            load(spec, "--algorithm")


@pytest.mark.processes
def test_the_names_are_known_without_torch() -> None:
    code = "import sys, p2pfl.registry, p2pfl.config, p2pfl.faults; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
