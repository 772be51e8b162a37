from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.comparison_runs import BATCH, CONSENSUS, FEDERATED, MESSAGE, STEPS, make_run, matched
from tests.support.runs import make_run as make_gossip_run

from p2pfl.errors import ConfigError
from p2pfl.report import FIELDS, read_summary
from p2pfl.report.compare import Comparison, Entry, find_mismatches, load_entries, notes, terminal_table
from p2pfl.report.compare.curves import curve, mean_final_point, points
from p2pfl.report.compare.table import best, cell, statistic
from p2pfl.topology import make_topology, mixing_bounds, mixing_matrix


def entries_of(tmp_path: Path, *kinds: dict[str, Any]) -> list[Entry]:
    return load_entries([make_run(tmp_path / f"run-{i}", **kind) for i, kind in enumerate(kinds)])


def labels(entries: list[Entry]) -> list[str]:
    return [entry.label for entry in entries]


def sentences(entries: list[Entry]) -> list[str]:
    return [mismatch.sentence for mismatch in find_mismatches(entries)]


# Entries and labels


def test_runs_that_differ_in_the_seed_only_are_one_entry(tmp_path: Path) -> None:
    entries = load_entries(matched(tmp_path, seeds=(2, 0)))
    assert labels(entries) == ["ring-4", "complete-4", "FedAvg 4/4", "FedAvg 3/4", "local", "SGD"]
    assert [entry.seeds for entry in entries] == [(0, 2)] * 6
    assert [run.path.name for run in entries[0].runs] == ["ring-0", "ring-2"]
    assert entries[0].summaries[1] == read_summary(tmp_path / "ring-2")


def test_machine_specific_options_do_not_separate_runs(tmp_path: Path) -> None:
    kinds = [{"seed": 0, "device": "cpu", "threads": 1}, {"seed": 1, "device": "auto", "data_dir": "elsewhere"}]
    assert [entry.seeds for entry in entries_of(tmp_path, *kinds)] == [(0, 1)]


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ([{"lr": 0.02}, {"lr": 0.05}], ["ring-4, lr 0.02", "ring-4, lr 0.05"]),
        (  # in a comparison of algorithms those that have one exchange only keep it
            [{"gossip_steps": 3}, {"algorithm": "choco"}],
            ["ring-4, dpsgd, gossip-steps 3", "ring-4, choco, gossip-steps 1"],
        ),
        ([{}, {"order": "overlapped"}, {"mode": "local"}], ["ring-4, order atc", "ring-4, order overlapped", "local"]),
        (
            [{}, {"optimizer": "adamw", "lr": 0.001}, {"average_momentum": True}],
            [
                "ring-4, optimizer sgd, average-momentum False",
                "ring-4, optimizer adamw, average-momentum False",
                "ring-4, optimizer sgd, average-momentum True",
            ],
        ),
        (
            [{"mode": "local"}, {"mode": "local", "topology": make_topology("ring", 6)}],
            ["local, 4 peers", "local, 6 peers"],
        ),
        ([{}, {"name": "ring-4", "topology": make_topology("complete", 4)}], ["ring-4, run-0", "ring-4, run-1"]),
        ([{"name": "SGD"}, {"mode": "sgd"}], ["SGD, gossip", "SGD, sgd"]),
        (
            [FEDERATED, {**FEDERATED, "proximal_mu": 0.1}, {**FEDERATED, "server_momentum": 0.9}],
            ["FedAvg 4/4", "FedProx 4/4", "FedAvgM 4/4"],
        ),
    ],
)
def test_labels_are_short_and_unique(tmp_path: Path, kinds: list[dict[str, Any]], wanted: list[str]) -> None:
    assert labels(entries_of(tmp_path, *kinds)) == wanted


def test_how_often_a_run_was_evaluated_does_not_part_seeds(tmp_path: Path) -> None:
    kinds = [{"seed": 0, "eval_every": 1}, {"seed": 1, "eval_every": 2}]
    assert [entry.seeds for entry in entries_of(tmp_path, *kinds)] == [(0, 1)]


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    once, again = make_run(tmp_path / "once"), make_run(tmp_path / "again")
    with pytest.raises(ConfigError, match="given twice"):
        load_entries([once, tmp_path / "again" / ".." / "once"])
    with pytest.raises(ConfigError, match=f"{once} and {again}: the same settings and the same seed"):
        load_entries([once, again])
    with pytest.raises(ConfigError, match="no runs to compare"):
        load_entries([])


def test_edges_that_were_not_used_do_not_part_local_runs(tmp_path: Path) -> None:
    kinds = [{"mode": "local"}, {"mode": "local", "seed": 1, "topology": make_topology("complete", 4)}]
    assert [entry.seeds for entry in entries_of(tmp_path, *kinds)] == [(0, 1)]


# Matching


def test_matched_runs_have_no_mismatch(tmp_path: Path) -> None:
    entries = load_entries(matched(tmp_path))
    assert sentences(entries) == []
    assert notes(entries) == []
    samples = [entry.summaries[0]["samples_total"] for entry in entries]
    assert samples == [5120, 5120, 5120, 4800, 5120, 5120], "FedAvg 3/4 has whole rounds of 960 samples"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("model", "vgg13", "different model (--model): vgg11 in ring-4 and local; vgg13 in SGD"),
        ("width", 0.5, "different width of the model (--width): 1 in ring-4 and local; 0.5 in SGD"),
        ("norm", "group", "different normalization (--norm): batch in ring-4 and local; group in SGD"),
        ("dataset", "cifar10", "different data set (--dataset): digits in ring-4 and local; cifar10 in SGD"),
        ("batch_size", 16, "different batch size (--batch-size): 32 in ring-4 and local; 16 in SGD"),
        ("schedule", "cosine", "different schedule (--schedule): onecycle in ring-4 and local; cosine in SGD"),
        ("seed", 3, "different seeds (--seed): 0 in ring-4 and local; 3 in SGD"),
    ],
)
def test_each_mismatch_names_option_values_and_runs(tmp_path: Path, option: str, value: Any, words: str) -> None:
    entries = entries_of(tmp_path, {}, {"mode": "local"}, {"mode": "sgd", option: value})
    assert sentences(entries) == [words]
    assert find_mismatches(entries)[0].labels == {"SGD"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"content": "fedcba9876543210"}, "content of the data set: 0123456789abcdef in ring-4 and local; fedcba98"),
        ({"content": None}, "content of the data set: 0123456789abcdef in ring-4 and local; not recorded in SGD"),
        ({"image_range": "0,4095"}, "value range of pictures (--image-range): unset in ring-4 and local; 0,4095 in"),
        ({"background": "black"}, "background of pictures (--background): white in ring-4 and local; #000000 in SGD"),
        ({"augmented": True}, "augmentation (--augment): off in ring-4 and local; on in SGD"),
    ],
)
def test_runs_on_other_pixels_do_not_match(tmp_path: Path, kind: dict[str, Any], words: str) -> None:
    entries = entries_of(tmp_path, {}, {"mode": "local"}, {"mode": "sgd", **kind})
    assert any(one.startswith(f"different {words}") for one in sentences(entries)), sentences(entries)
    assert {label for one in find_mismatches(entries) for label in one.labels} == {"SGD"}


def test_seeds_on_other_data_are_no_repetitions(tmp_path: Path) -> None:
    """Nor is one run another's double whose data were others."""
    kinds = [{"seed": 0}, {"seed": 1}, {"seed": 1, "content": "fedcba9876543210"}]
    entries = entries_of(tmp_path, *kinds)
    assert [entry.seeds for entry in entries] == [(0, 1), (1,)]
    assert any("content of the data set" in one for one in sentences(entries))


def test_runs_match_by_their_work_however_it_was_specified(tmp_path: Path) -> None:
    kinds = [{"dataset": "imagefolder:/a", "augment": "auto"}, {"dataset": "imagefolder:/b", "augment": "on"}]
    spelled = [{"background": "white", "image_range": "0, 9"}, {"background": "#FFFFFF", "image_range": "0.0,9"}]
    both = [
        {**one, **two, "augmented": True, "seed": n} for n, (one, two) in enumerate(zip(kinds, spelled, strict=True))
    ]
    assert [entry.seeds for entry in entries_of(tmp_path, *both)] == [(0, 1)]


def test_shards_are_compared_where_data_is_dealt(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, {}, {**FEDERATED, "num_clients": 5}, {"mode": "sgd"})
    assert sentences(entries) == ["different number of shards: 4 in ring-4; 5 in FedAvg 4/5"]


def test_samples_may_differ_by_half_of_a_round_and_no_more(tmp_path: Path) -> None:
    """FedAvg 3/4: 960 samples a round, so 5 or 6 rounds are near ring-4's 5,120."""
    per_round = 3 * STEPS * BATCH
    for rounds, near in ((4, False), (5, True), (6, True), (7, False)):
        entries = entries_of(tmp_path / str(rounds), {}, {**FEDERATED, "num_selected": 3, "rounds": rounds})
        apart = abs(5120 - rounds * per_round)
        assert (sentences(entries) == []) is near is (apart <= 1280 / 2)
    assert sentences(entries) == [
        "different numbers of samples processed: 6,720 in FedAvg 3/4; 5,120 in ring-4 "
        "(half of one round, 640 samples, would be allowed)"
    ]


def test_tuning_is_noted_and_not_refused(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, {}, {"mode": "sgd", "optimizer": "adamw", "lr": 0.05, "precision": "bf16"})
    assert sentences(entries) == []
    assert notes(entries) == [
        "different optimizer (--optimizer): sgd in ring-4; adamw in SGD",
        "different learning rate (--lr): 0.02 in ring-4; 0.05 in SGD",
        "different precision (--precision): fp32 in ring-4; bf16 in SGD",
    ]


def test_an_incomplete_run_is_a_mismatch_with_a_remedy(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, {}, {"mode": "local", "finished": 3})
    path = tmp_path / "run-1"
    assert sentences(entries) == [f"{path} is incomplete (3 of 4 rounds): finish it with p2pfl local --resume {path}"]


def test_a_folder_of_images_is_the_same_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds: list[dict[str, Any]] = [{"dataset": "imagefolder:images"}]
    kinds += [{"mode": "local", "dataset": f"imagefolder:{tmp_path}/images"}]
    kinds = [{**kind, "content": None} for kind in kinds]  # where it is recorded, that counts
    entries = entries_of(tmp_path, *kinds)
    assert sentences(entries) == []
    assert notes(entries) == ["no run has a record of the content of its data, so whether it was the same is unknown"]


# Numbers


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path: Path) -> None:
    (entry,) = entries_of(tmp_path, *({"seed": seed, "accuracy": a} for seed, a in enumerate((0.7, 0.8, 0.75))))
    found = statistic(entry, "consensus_accuracy")
    assert found.values == (0.7, 0.8, 0.75)
    assert found.mean == pytest.approx(0.75)
    assert found.std == pytest.approx(0.05), "sqrt((0.05² + 0.05² + 0) / (3 − 1))"
    assert cell(entry, "consensus_accuracy") == "75.00 ± 5.00 %"
    assert cell(entry, "seed") == "0; 1; 2"
    assert cell(entry, "samples_total") == "5,120", "the same in all seeds"
    assert statistic(entry, "topology").mean is None


def test_bytes_of_the_whole_run_include_the_consensus_phase(tmp_path: Path) -> None:
    ring, fed = entries_of(tmp_path, {}, {**FEDERATED, "num_selected": 2})
    assert statistic(ring, "bytes_sent_whole_run").values == (4 * 2 * (4 + CONSENSUS) * MESSAGE,)
    assert statistic(ring, "bytes_sent_busiest_node").values == (2 * (4 + CONSENSUS) * MESSAGE,)
    assert statistic(fed, "bytes_sent_whole_run").values == (4 * 2 * 2 * MESSAGE,)
    assert statistic(fed, "bytes_sent_busiest_node").values == (4 * 2 * MESSAGE,), "the coordinator's"


def test_best_is_the_best_of_those_that_match(tmp_path: Path) -> None:
    entries = load_entries(matched(tmp_path))
    assert best(entries, "consensus_accuracy") == {"SGD"}
    assert best(entries, "consensus_accuracy", mismatched=frozenset({"SGD"})) == {"FedAvg 4/4"}
    assert best(entries, "bytes_sent_whole_run") == {"FedAvg 3/4"}, "SGD and local send nothing"
    assert best(entries, "seconds") == set(), "all are equally fast"
    assert best(entries, "rounds") == set()
    assert best(entries[:1], "consensus_accuracy") == set(), "nobody to compare with"


# Curves


def test_curves_hold_where_each_run_was(tmp_path: Path) -> None:
    ring, fed, sgd = entries_of(tmp_path, {}, {**FEDERATED, "num_selected": 2}, {"mode": "sgd"})
    line = curve(ring)
    assert line.position["rounds"].tolist() == [1, 2, 3, 4]
    assert line.position["samples"].tolist() == [1280, 2560, 3840, 5120]
    assert line.position["bytes"].tolist() == [8 * n * MESSAGE for n in (1, 2, 3, 4)]
    assert line.mean[-1] == pytest.approx(0.8 - 0.01 * (4 + 3 + 2 + 1) / 4)
    assert (line.low[-1], line.high[-1]) == (pytest.approx(0.76), pytest.approx(0.79))
    line = curve(fed)
    assert line.position["samples"].tolist() == [2 * STEPS * BATCH * n for n in (1, 2, 3, 4)]
    assert line.position["bytes"].tolist() == [2 * 2 * n * MESSAGE for n in (1, 2, 3, 4)]
    assert curve(sgd).position["bytes"].tolist() == [0, 0, 0, 0]
    end = mean_final_point(ring)
    assert end is not None
    assert (end.mean, end.position[0], end.position[3]) == (0.8, 4 + CONSENSUS, 8 * (4 + CONSENSUS) * MESSAGE)


def test_the_band_over_seeds_is_one_standard_deviation(tmp_path: Path) -> None:
    (entry,) = entries_of(tmp_path, *({"mode": "sgd", "seed": s, "accuracy": a} for s, a in ((0, 0.6), (1, 0.8))))
    line = curve(entry)
    assert line.mean[-1] == pytest.approx(0.7)
    assert line.high[-1] - line.mean[-1] == pytest.approx(0.1 * 2**0.5)
    assert mean_final_point(entry) is not None


def test_local_peers_have_no_common_model(tmp_path: Path) -> None:
    (entry,) = entries_of(tmp_path, {"mode": "local"})
    assert mean_final_point(entry) is None
    assert len(points(entry.runs[0])) == 4


def test_measured_disagreement_keeps_below_its_bound(tmp_path: Path) -> None:
    (entry,) = entries_of(tmp_path, {"topology": make_topology("ring", 8)})
    run = entry.runs[0]
    bounds = mixing_bounds(mixing_matrix(run.topology), CONSENSUS)
    assert bounds["plain"] == pytest.approx([(1 - 0.195262) ** k for k in range(CONSENSUS + 1)], rel=1e-4)
    assert all(a <= b for a, b in zip(bounds["chebyshev"], bounds["plain"], strict=True))
    for k in range(1, CONSENSUS + 1):
        assert run.distances[4 + k] <= run.distances[4] * bounds["chebyshev"][k] * 1.0001
    (mesh,) = entries_of(tmp_path / "mesh", {"topology": make_topology("complete", 4)})
    assert mixing_bounds(mixing_matrix(mesh.runs[0].topology), 2) == {"plain": [1.0, 0.0, 0.0]}


# Terminal


def printed(comparison: Comparison, width: int) -> list[str]:
    from rich.console import Console

    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(comparison, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_table_fits_100_columns_and_marks_the_best(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    entries = load_entries(matched(tmp_path, seeds))
    lines = printed(Comparison(tmp_path, tuple(entries), (), ()), 100)
    assert all(len(line) <= 100 for line in lines)
    heading, rows = lines[0], {entry.label: line for entry, line in zip(entries, lines[1:], strict=False)}
    assert all(line.startswith(label) for label, line in rows.items())
    assert all(name in heading for name in ("model %", "worst peer", "samples", "steps", "sent", "busiest", "seconds"))
    assert {label for label, line in rows.items() if re.search(r"8[01]\.\d+( ±1\.0)?\*", line)} == {"SGD"}
    assert "FedAvg 4/4" in rows["FedAvg 4/4"]
    assert ("71.0 ±1.0" in rows["ring-4"]) is (len(seeds) == 3)


def test_a_narrow_terminal_loses_columns_and_never_characters(tmp_path: Path) -> None:
    long = "a-ring-named-by-24-chars"
    entries = load_entries([*matched(tmp_path), make_run(tmp_path / "long", name=long, lr=0.5)])
    comparison = Comparison(tmp_path, tuple(entries), (), ())
    wide, narrow = (printed(comparison, width)[: 1 + len(entries)] for width in (200, 50))
    assert "model %" in narrow[0]
    assert "steps" not in narrow[0]
    assert all(len(line) <= 50 for line in narrow)
    for label, line, whole in zip(["run", *labels(entries)], narrow, wide, strict=True):
        assert line.startswith(f"{label} ")
        assert set(line.split()) <= set(whole.split()), "numbers are left out, never cut"
    assert labels(entries)[-1] == long
    assert any("80.00*" in line for line in narrow)


def test_mismatched_runs_are_marked_and_never_best(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, {}, {"mode": "local"}, {"mode": "sgd", "model": "vgg13", "accuracy": 0.99})
    lines = printed(Comparison(tmp_path, tuple(entries), tuple(find_mismatches(entries)), ("a note",)), 100)
    sgd = next(line for line in lines if line.startswith("SGD"))
    assert sgd.startswith("SGD [1] ")
    assert "99.00 " in sgd
    assert any(line.startswith("[1] different model (--model)") for line in lines)
    assert "Note: a note" in lines


@pytest.mark.processes
def test_importing_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, p2pfl.report.compare; print({'torch', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "set()"


def test_summaries_are_computed_where_the_file_is_missing_or_old(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    whole = read_summary(run_dir)
    (run_dir / "summary.json").write_text('{"status": "complete", "seconds": 60.0}')
    (entry,) = load_entries([run_dir])
    assert list(entry.summaries[0]) == list(FIELDS)
    assert entry.summaries[0] == {**whole, "versions": {}}


@pytest.mark.processes
def test_comparing_existing_runs_never_imports_torch(tmp_path: Path) -> None:
    ring = make_gossip_run(tmp_path / "ring", make_topology("ring", 4))
    mesh = make_gossip_run(tmp_path / "mesh", make_topology("complete", 4))
    words = ["compare", str(ring), str(mesh), "--run-dir", str(tmp_path / "both")]
    code = f"import sys\nfrom p2pfl.cli import main\nassert main({words!r}) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, capture_output=True)
    assert (tmp_path / "both" / "report.html").is_file()
