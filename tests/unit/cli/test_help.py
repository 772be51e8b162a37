"""Help of the commands, and suggestions for misspelled words."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from p2pfl.cli import COMMANDS, main
from p2pfl.cli.describe import describe_run
from p2pfl.config import RunConfig, load_toml
from p2pfl.errors import ConfigError
from p2pfl.experiment.single import when_back
from p2pfl.topology import FORMATS, make_topology
from p2pfl.util.text import nearest


def helped(capsys: pytest.CaptureFixture[str], command: str) -> str:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_breaks_lines_at_the_margin_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """No line is so short that the first word of the next would have fitted."""
    monkeypatch.setenv("COLUMNS", "100")
    lines = [line[2:98].ljust(96) for line in helped(capsys, command).splitlines() if line.startswith(("  ", "│ "))]
    assert len(lines) > 3
    options_alone = re.compile(r"\S+( \S+)* *$")  # their text begins on the next line
    broken = [
        here
        for here, there in pairwise(lines)
        if there.startswith(" " * 15)
        and there.strip()
        and not options_alone.match(here)
        and len(here.rstrip()) + 1 + len(there.split()[0]) <= len(here)
    ]
    assert broken == []


@pytest.mark.parametrize("command", ["topology make", "topology fix"])
def test_help_lists_the_formats_that_can_be_written(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = helped(capsys, command)
    assert [form for form in FORMATS if form not in text] == []


def test_only_commands_with_a_launcher_take_restart(capsys: pytest.CaptureFixture[str]) -> None:
    takers = [command for command in COMMANDS if "--restart " in helped(capsys, command)]
    assert takers == ["gossip", "centralized", "compare"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("round", "rounds"),
        ("ruonds", "rounds"),
        ("--round_timeot", "round-timeout"),
        ("widht", "width"),
        ("batchsize", "batch-size"),
        ("epochs", "local-epochs"),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_the_likeliest_word_is_suggested(word: str, meant: str | None) -> None:
    known = ["first-round-timeout", "round-timeout", "rounds", "width", "batch-size", "local-epochs", "lr"]
    assert nearest(word, known) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[model]\nwidht = 0.2",
            "[model] has no option 'widht'; did you mean width? Its options are model, width, norm",
        ),
        ("[model]\nrounds = 2", "[model] has no option 'rounds'; it belongs in [training]"),
        ("[model]\nround = 2", "did you mean rounds in [training]? Its options are model, "),
        ("[modle]\nwidth = 0.2", "there is no section [modle]; did you mean model? Known are model, data, "),
        ("widht = 0.2", "there is no option 'widht'; did you mean width? Known are "),
    ],
)
def test_settings_files_get_suggestions(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_toml(tmp_path / "settings.toml")
    assert said in str(caught.value)


def test_a_dry_run_of_saved_settings_names_the_run() -> None:
    topology = make_topology("ring", 4)
    options = {"dataset": "digits", "model": "vgg11", "width": 0.1}
    assert f"{topology.name} (run mine): 4 peers" in describe_run(topology, RunConfig.of(name="mine", **options))
    assert f"{topology.name}: 4 peers" in describe_run(topology, RunConfig.of(name=topology.name, **options))


@pytest.mark.parametrize(
    ("missed", "when"),
    [
        ([], ""),
        (["bob"], "once bob is back, "),
        (["a, b"], "once a, b is back, "),
        (["a", "b"], "once a, b are back, "),
    ],
)
def test_a_peer_that_missed_neighbors_says_when_it_can_continue(missed: list[str], when: str) -> None:
    assert when_back(missed, "resume with: p2pfl peer") == f"{when}resume with: p2pfl peer"
